"""The adapter of the target `local`.

It is not a security boundary: code in such a sandbox can do what the user who runs it can do.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from builder.errors import BuildError, StorageError, from_os_error
from builder.plan import TargetState
from builder.render import Rendered
from builder.sandbox.session import Sandbox
from builder.spec import Variant
from builder.system.events import Event, Kind, Reporter
from builder.system.limits import room
from builder.system.logs import Log
from builder.targets.local import environment, interpreter, leftovers, place, sealed
from builder.targets.protocol import BuildInput, Built, Needs, Tagged, Unused

__all__ = ["LocalTarget"]


class LocalTarget:
    """Builder and sandbox opener of this machine."""

    steps_cached = False
    content_addressed = True
    this_machine = True
    jobs = min(4, os.cpu_count() or 1)

    def __init__(self, *, name: str = "local", registry: str = "") -> None:
        """`registry` is where its builds are recorded: it is noted that they are needed there."""
        self.name = name
        self._registry = registry
        self._claims: dict[str, contextlib.ExitStack] = {}
        self._made: dict[str, Path] = {}  # by digest: made, and not in place yet

    def account(self) -> str:
        """None is needed."""
        return "needs no account"

    def tidy(self) -> None:
        """Remove environments that no build leads to, and that nobody makes or runs in."""
        leftovers.sweep()

    def look(self, rendered: Rendered, entry: Mapping[str, Any], channel: str) -> TargetState:
        """Whether the digest's environment is on this machine and has its interpreter."""
        del entry, channel
        return TargetState(present=place.find(rendered.digest) is not None)

    @contextlib.contextmanager
    def claimed(self, name: str, *, report: Reporter) -> Iterator[None]:
        """Hold what `build` claims, for the `with` block: then, what was not published goes."""
        del report
        with contextlib.ExitStack() as stack:
            self._claims[name] = stack
            stack.callback(self._claims.pop, name)
            yield

    def publish(
        self,
        name: str,
        fields: Mapping[str, Any],
        *,
        channel: str | None,
        over: Collection[str] | None = frozenset(),
    ) -> None:
        """Put a new environment in the place of the one before. Nothing else to move: the
        registry's channel is the only one. But it must not point at an environment that is gone."""
        del channel, over
        digest: str = fields["digest"]
        made = self._made.get(digest)
        if (place.read(made) if made else place.find(digest)) is None:
            raise BuildError(
                f"the environment of `{name}`, {digest}, is not on this machine",
                hint=f"`template-builder build {name} --target {self.name}` makes the spec's own; a"
                " check that removes the environment it runs in fails like this, too",
            )
        if made:
            environment.activate(digest, made)
            del self._made[digest]
        leftovers.note_need(digest, self._registry)

    def keep(self, built: Built, measures: Mapping[str, Any]) -> None:
        """Keep them beside the environment."""
        folder = self._made.get(built.digest) or place.folder_of(built.digest)
        with contextlib.suppress(StorageError):  # an environment that is shared, and read-only
            place.keep_measures(folder, {**measures, "notes": list(built.notes)})

    def withdraw(
        self,
        name: str,
        builds: Sequence[Mapping[str, Any]],
        *,
        channels: Mapping[str, Mapping[str, Any]],
    ) -> None:
        """Nothing to let go: environments that nothing needs are removed by `gc`."""

    def examine(self, ref: str) -> dict[str, Any]:
        """What is here was built here."""
        raise BuildError(f"`{ref}` cannot be looked for: target `{self.name}` is this machine")

    def forget(self, name: str, build_id: str) -> None:
        """Nothing was kept."""

    def tagged(self, name: str) -> list[Tagged]:
        """Nothing here carries tags: the registry alone has channels."""
        raise BuildError(
            f"`{name}` cannot be put back from this machine, which has no channels",
            hint=f"`template-builder build {name} --target {self.name}` records it again",
        )

    def unused(self, templates: Mapping[str, Any], needs: Needs, protect: float) -> list[Unused]:
        """Environments that nothing needs; see `Target`."""
        del templates  # of an environment its digest tells enough
        return leftovers.unused(self._registry, needs, protect)

    def remove(self, waste: Unused) -> str | None:
        """Remove one of them; why not, where it is in use."""
        return leftovers.remove(waste)

    def unsupported(self, variant: Variant) -> tuple[str, ...]:
        """What of the variant has no meaning without a machine of its own."""
        return (
            *_missing(variant),
            f"the base image {variant.image} and its service: Python comes from this machine",
            (
                f"limits: {variant.cpu} CPUs and {variant.memory_mb} MiB are not enforced,"
                " and it is no security boundary"
            ),
        )

    def blocked(self, variant: Variant) -> str | None:
        """No Python here that the variant can use."""
        if interpreter.choose(variant.python) is not None:
            return None
        return (
            f"no Python on this machine satisfies `base.python` {variant.python};"
            f" `uv python install {variant.python_floor}` gets one"
        )

    def build(self, order: BuildInput, *, report: Reporter, log: Log) -> Built:
        """Make the environment of the variant's digest, or find it made.

        It is to be called with the variant claimed. A new environment serves once it is published.
        """
        rendered = order.rendered
        found, reused = self._environment(order, report, log)
        build_id = rendered.digest.replace(":", "-")
        name = rendered.variant.name
        unsupported, missing = self.unsupported(rendered.variant), _missing(rendered.variant)
        for line in unsupported:
            kind: Kind = "warning" if line in missing else "note"
            text = f"not provided by {self.name}: {line}"
            report(Event(kind=kind, variant=name, text=text))
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
            warnings=tuple(f"not provided by {self.name}: {line}" for line in unsupported),
            missing=missing,
            one_of_many=True,
            notes=(f"Python {found.python} of this machine, ipykernel {found.ipykernel}",),
        )

    def _environment(
        self, order: BuildInput, report: Reporter, log: Log
    ) -> tuple[place.Environment, bool]:
        rendered, started = order.rendered, time.time()
        digest, name = rendered.digest, rendered.variant.name
        if not order.force and (found := place.find(digest)):
            return found, True

        def waiting() -> None:
            text = "waiting for another process to build this"
            report(Event(kind="step", variant=name, text=text))

        claim = self._claims[name]
        claim.enter_context(environment.claimed(digest, waiting=waiting))
        found = place.find(digest)
        if found and (not order.force or place.placed_since(digest, started)):
            return found, True
        folder = environment.make(rendered, report=report, log=log)
        claim.callback(self._discard, digest, folder)
        self._made[digest] = folder
        made = place.read(folder)
        if made is None:
            raise BuildError(f"the environment of `{name}` vanished from {folder}")
        return made, False

    def _discard(self, digest: str, folder: Path) -> None:
        """Remove what was made, where it was not published."""
        if self._made.pop(digest, None):
            leftovers.remove_unused(folder)

    def open(
        self,
        ref: str,
        *,
        name: str,
        warm: Sequence[str],
        env: Mapping[str, str],
        cold: bool = False,
    ) -> Sandbox:
        """Start a kernel of the build `local:<name>@sha256-…` in a working directory of its own.

        Of what this target has built and not published yet, that is opened."""
        from builder.targets.local.kernel import KernelSandbox

        del cold  # a kernel is, unless it is asked to be warm
        if made := self._made.get(place.digest_of(ref)):
            with room():
                return KernelSandbox(made, warm=warm, env=env)
        with room(), place.opened(ref, name=name) as path:
            return KernelSandbox(path, warm=warm, env=env)

    def changes(self, ref: str) -> list[str]:
        """Which files of the build `local:<name>@sha256-…` are not as it was made with."""
        digest = place.digest_of(ref)
        try:
            return sealed.changes(self._made.get(digest) or place.folder_of(digest))
        except OSError as error:
            raise from_os_error(error, f"looking at the files of `{ref}`") from error

    def copies(
        self, first: Sandbox, ref: str, *, name: str, warm: Sequence[str], env: Mapping[str, str]
    ) -> Generator[Sandbox, None, None]:
        """Two kernels, forked from one process that has imported the modules of `warm`; none where
        no process can be forked."""
        from builder.targets.local.kernel import KernelSandbox
        from builder.targets.local.launch import CannotForkError, Zygote, forks

        del first  # its interpreter has no copy
        if not forks():
            return
        with contextlib.ExitStack() as stack:
            path = self._made.get(place.digest_of(ref))
            path = path or stack.enter_context(place.opened(ref, name=name))
            zygote = stack.enter_context(contextlib.closing(Zygote(path, warm=warm, env=env)))
            with contextlib.suppress(CannotForkError):
                for _ in range(2):
                    zygote.take()
                    sandbox = KernelSandbox(path, warm=(), env=env, zygote=zygote)
                    with contextlib.closing(sandbox):
                        yield sandbox


def _missing(variant: Variant) -> tuple[str, ...]:
    """What a variant asks for by name, and environments do not have."""
    found = []
    for stage in variant.stages:
        if stage.system:
            found.append(f"Debian packages of {stage.source}: {', '.join(stage.system)}")
        if stage.files:
            targets = ", ".join(entry.target for entry in stage.files)
            found.append(f"files at absolute paths of {stage.source}: {targets}")
    return tuple(found)
