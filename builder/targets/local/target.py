"""The adapter of the target `local`.

It is not a security boundary: code in such a sandbox can do what the user who runs it can do.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from builder.errors import BuildError, from_os_error
from builder.plan import TargetState
from builder.registry import Ref
from builder.sandbox.session import Sandbox
from builder.spec import Variant
from builder.system.events import Event, Kind, Reporter
from builder.system.limits import room
from builder.system.logs import Log
from builder.targets.local import environment, interpreter, leftovers, place, sealed
from builder.targets.protocol import (
    BuildInput,
    Built,
    Needs,
    Opening,
    Publication,
    StateQuery,
    Unused,
)

if TYPE_CHECKING:
    from builder.targets.local.kernel import KernelSandbox


class LocalTarget:
    """Builder, sandbox opener and publisher of this machine."""

    steps_cached = False
    content_addressed = True
    this_machine = True
    jobs = min(4, os.cpu_count() or 1)
    account = None
    inventory = None  # the registry alone has channels
    journal = None  # what a run that is killed has begun is of no use

    def __init__(self, *, name: str = "local", registry: str = "") -> None:
        """`registry` is where its builds are recorded: it is noted that they are needed there."""
        self.name = name
        self._registry = registry
        self._claims: dict[str, contextlib.ExitStack] = {}
        self._made: dict[str, Path] = {}  # by digest: made, and not in place yet

    def tidy(self) -> None:
        """Remove environments that no build leads to, and that nobody makes or runs in."""
        leftovers.sweep()

    def look(self, query: StateQuery) -> TargetState:
        """Whether the digest's environment is on this machine and has its interpreter."""
        return TargetState(present=place.find(query.rendered.digest) is not None)

    @contextlib.contextmanager
    def claimed(self, name: str) -> Iterator[None]:
        """Hold what `build` claims, for the `with` block: then, what was not published goes."""
        with contextlib.ExitStack() as stack:
            self._claims[name] = stack
            stack.callback(self._claims.pop, name)
            yield

    def publish(self, publication: Publication) -> None:
        """Put a new environment in the place of the one before. Nothing else to move: the
        registry's channel is the only one. But it must not point at an environment that is gone."""
        name: str = publication.name
        digest = str(publication.build.digest)
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

    def unused(self, needs: Needs) -> list[Unused]:
        """Environments that nothing needs."""
        return leftovers.unused(self._registry, needs)

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
        made, reused = self._environment(order, report, log)
        build_id = rendered.digest.tag
        name = rendered.variant.name
        unsupported, missing = self.unsupported(rendered.variant), _missing(rendered.variant)
        for line in unsupported:
            kind: Kind = "warning" if line in missing else "note"
            text = f"not provided by {self.name}: {line}"
            report(Event(kind=kind, variant=name, text=text))
        return Built(
            name=name,
            target=self.name,
            ref=Ref(f"local:{name}@{build_id}"),
            template_id=name,
            build_id=build_id,
            digest=rendered.digest,
            seconds=made.seconds,
            reused=reused,
            size=made.size,
            cold=made.cold,
            warnings=tuple(f"not provided by {self.name}: {line}" for line in unsupported),
            missing=missing,
            one_of_many=True,
            folder=made.path,
            notes=(f"Python {made.python} of this machine, ipykernel {made.ipykernel}",),
        )

    def _environment(
        self, order: BuildInput, report: Reporter, log: Log
    ) -> tuple[place.Environment, bool]:
        rendered, started = order.rendered, time.time()
        digest, name = rendered.digest, rendered.variant.name
        if not order.force and (made_before := place.find(digest)):
            return made_before, True

        def waiting() -> None:
            text = "waiting for another process to build this"
            report(Event(kind="step", variant=name, text=text))

        claim = self._claims[name]
        claim.enter_context(environment.claimed(digest, waiting=waiting))
        made_before = place.find(digest)
        if made_before and (not order.force or place.placed_since(digest, started)):
            return made_before, True
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

    def open(self, opening: Opening) -> Sandbox:
        """Start a kernel of the build `local:<name>@sha256-…` in a working directory of its own;
        one that is not asked to be warm is cold."""
        from builder.sandbox.blocking import BlockingSession
        from builder.targets.local.kernel import KernelSandbox
        from builder.targets.local.session import LocalSession

        def start(given_up: threading.Event) -> KernelSandbox:
            with room(), self._opened(opening) as folder:
                return KernelSandbox(folder, warm=opening.warm, env=opening.env, given_up=given_up)

        return BlockingSession(lambda: LocalSession.of(start))

    def changes(self, ref: str) -> list[str]:
        """Which files of the build `local:<name>@sha256-…` are not as it was made with."""
        digest = Ref(ref).digest
        try:
            return sealed.changes(self._made.get(digest) or place.folder_of(digest))
        except OSError as error:
            raise from_os_error(error, f"looking at the files of `{ref}`") from error

    def copies(self, opening: Opening) -> Generator[Sandbox, None, None]:
        """Two kernels, forked from one process that has imported the modules; none where no process
        can be forked."""
        from builder.sandbox.blocking import BlockingSession
        from builder.targets.local.kernel import KernelSandbox
        from builder.targets.local.launch import CannotForkError, Zygote, forks
        from builder.targets.local.session import LocalSession

        if not forks():
            return
        with (
            self._opened(opening) as folder,
            contextlib.closing(Zygote(folder, warm=opening.warm, env=opening.env)) as zygote,
            contextlib.suppress(CannotForkError),
        ):

            def start(given_up: threading.Event) -> KernelSandbox:
                zygote.take()
                return KernelSandbox(
                    folder, warm=(), env=opening.env, zygote=zygote, given_up=given_up
                )

            for _ in range(2):
                with contextlib.closing(BlockingSession(lambda: LocalSession.of(start))) as copy:
                    yield copy

    def _opened(self, opening: Opening) -> AbstractContextManager[Path]:
        """The folder of a build for the `with` block; also of one that is not published yet."""
        if made := self._made.get(Ref(opening.ref).digest):
            return contextlib.nullcontext(made)
        return place.opened(opening.ref, name=opening.name)


def _missing(variant: Variant) -> tuple[str, ...]:
    """What a variant asks for by name, and environments do not have."""
    missing = []
    for stage in variant.stages:
        if stage.system:
            missing.append(f"Debian packages of {stage.source}: {', '.join(stage.system)}")
        if stage.files:
            targets = ", ".join(entry.target for entry in stage.files)
            missing.append(f"files at absolute paths of {stage.source}: {targets}")
    return tuple(missing)
