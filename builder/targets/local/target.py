"""The adapter of the target `local`.

It is not a security boundary: code in such a sandbox can do what the user who runs it can do.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from builder.build import Built, Needs, Order, Tagged, Waste
from builder.checks import Sandbox
from builder.errors import BuildError
from builder.events import Reporter
from builder.logs import Log
from builder.plan import Look
from builder.render import Rendered
from builder.spec import Variant
from builder.targets.local import environment, interpreter, leftovers, place

__all__ = ["LocalTarget"]


class LocalTarget:
    """Builder and sandbox opener of this machine."""

    steps_cached = False
    content_addressed = True
    jobs = min(4, os.cpu_count() or 1)

    def __init__(self, *, name: str = "local", registry: str = "") -> None:
        """`registry` is where its builds are recorded: it is noted that they are needed there."""
        self.name = name
        self._registry = registry

    def tidy(self) -> None:
        """Remove half-made environments that nobody is making any more."""
        environment.sweep()

    def look(self, rendered: Rendered, entry: Mapping[str, Any], channel: str) -> Look:
        """Whether the digest's environment is on this machine and has its interpreter."""
        del entry, channel
        return Look(present=place.find(rendered.digest) is not None)

    def claimed(self, name: str, *, report: Reporter) -> AbstractContextManager[None]:
        """Nothing to hold: an environment has a lock of its own."""
        del name, report
        return contextlib.nullcontext()

    def publish(self, name: str, fields: Mapping[str, Any], *, channel: str) -> None:
        """Nothing to move: the registry's channel is the only one there is. But it must not point
        at an environment that is gone."""
        del channel
        found = place.find(fields["digest"])
        if found is None:
            raise BuildError(
                f"the environment of `{name}`, {fields['digest']}, is not on this machine",
                hint=f"`template-builder build {name} --target {self.name}` makes the spec's own; a"
                " check that removes the environment it runs in fails like this, too",
            )
        leftovers.note_need(found.path, self._registry)

    def examine(self, ref: str) -> dict[str, Any]:
        """What is here was built here."""
        raise BuildError(f"`{ref}` cannot be looked for: target `{self.name}` is this machine")

    def settled(self, name: str) -> None:
        """Nothing was kept."""

    def tagged(self, name: str) -> list[Tagged]:
        """Nothing here carries tags: the registry alone has channels."""
        raise BuildError(
            f"`{name}` cannot be put back from this machine, which has no channels",
            hint=f"`template-builder build {name} --target {self.name}` records it again",
        )

    def unused(self, templates: Mapping[str, Any], needs: Needs, protect: float) -> list[Waste]:
        """Environments that nothing needs; see `Target`."""
        del templates  # of an environment its digest tells enough
        return leftovers.unused(self._registry, needs, protect)

    def remove(self, waste: Waste) -> str | None:
        """Remove one of them; why not, where it is in use."""
        return leftovers.remove(waste)

    def lacking(self, variant: Variant) -> tuple[str, ...]:
        """What of the variant has no meaning without a machine of its own."""
        found = []
        for stage in variant.stages:
            if stage.system:
                found.append(f"Debian packages of {stage.source}: {', '.join(stage.system)}")
            if stage.files:
                targets = ", ".join(entry.target for entry in stage.files)
                found.append(f"files at absolute paths of {stage.source}: {targets}")
        found.append(
            f"the base image {variant.image} and its service: Python comes from this machine"
        )
        found.append(
            f"limits: {variant.cpu} CPUs and {variant.memory_mb} MiB are not enforced,"
            " and it is no security boundary"
        )
        return tuple(found)

    def blocked(self, variant: Variant) -> str | None:
        """No Python here that the variant can use."""
        if interpreter.choose(variant.python) is not None:
            return None
        return (
            f"no Python on this machine satisfies `base.python` {variant.python};"
            f" `uv python install {variant.python_floor}` gets one"
        )

    def build(self, order: Order, *, report: Reporter, log: Log) -> Built:
        """Make the environment of the variant's digest, or find it made."""
        rendered = order.rendered
        found, reused = environment.make(rendered, force=order.force, report=report, log=log)
        build_id = rendered.digest.replace(":", "-")
        name = rendered.variant.name
        return Built(
            name=name,
            target=self.name,
            ref=f"local:{name}@{build_id}",
            template_id=name,
            build_id=build_id,
            digest=rendered.digest,
            seconds=found.seconds,
            reused=reused,
            size=found.size,
            cold=found.cold,
            warnings=(f"Python {found.python} of this machine, ipykernel {found.ipykernel}",),
        )

    def open(
        self,
        ref: str,
        *,
        name: str,
        warm: Sequence[str],
        env: Mapping[str, str],
        cold: bool = False,
    ) -> Sandbox:
        """Start a kernel of the build `local:<name>@sha256-…` in a working directory of its own."""
        from builder.targets.local.kernel import KernelSandbox

        del cold  # a kernel is, unless it is asked to be warm
        return KernelSandbox(place.find_build(ref, name=name).path, warm=warm, env=env)
