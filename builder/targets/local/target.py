"""The adapter of the target `local`.

What only builds, sandboxes and cleaning need is imported there, since every plan loads this module.
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
from builder.plan import StateQuery, TargetState
from builder.registry import Ref
from builder.spec import Variant
from builder.system.events import Event, Kind, Reporter, discard
from builder.system.isolation import DEFAULT, Isolation
from builder.system.logs import Log
from builder.targets.local import interpreter, place

if TYPE_CHECKING:
    from builder.sandbox.session import Sandbox
    from builder.targets.local.confine.bubblewrap import ConfinementError
    from builder.targets.local.confine.confinement import Confinement
    from builder.targets.local.kernel import KernelSandbox
    from builder.targets.protocol import BuildInput, Built, Needs, Opening, Publication, Unused


class LocalTarget:
    """Builds, opens and publishes environments on this machine."""

    steps_cached = False
    content_addressed = True
    this_machine = True
    starts_services = False
    jobs = min(4, os.cpu_count() or 1)
    account = None
    inventory = None  # the registry alone has channels
    journal = None  # a run that is killed leaves nothing worth resuming

    def __init__(
        self,
        *,
        name: str = "local",
        registry: str = "",
        isolation: Isolation = DEFAULT,
        report: Reporter = discard,
    ) -> None:
        """`registry` is the location of the registry that records its builds and needs them.
        Sandboxes have the `isolation` where this machine can provide it; `report`
        receives a warning if only those of one template cannot have it."""
        self.name = name
        self._registry, self._isolation, self._report = registry, isolation, report
        self._warned: set[str] = set()  # templates
        self._claims: dict[str, contextlib.ExitStack] = {}
        self._unpublished: dict[str, Path] = {}  # by digest

    def tidy(self) -> None:
        """Remove environments that belong to no build and are not being made or used."""
        from builder.targets.local import leftovers

        leftovers.sweep()

    def look(self, query: StateQuery) -> TargetState:
        """Return whether the digest's environment is on this machine, with its interpreter."""
        return TargetState(present=place.find(query.rendered.digest) is not None)

    @contextlib.contextmanager
    def claimed(self, name: str) -> Iterator[None]:
        """Hold the claims of `build` for the `with` block; then remove what was not published."""
        with contextlib.ExitStack() as stack:
            self._claims[name] = stack
            stack.callback(self._claims.pop, name)
            yield

    def publish(self, publication: Publication) -> None:
        """Activate a new environment. Only the registry has channels, but they must not point to an
        environment that is gone."""
        from builder.targets.local import environment, leftovers

        name: str = publication.name
        digest = str(publication.build.digest)
        folder = self._unpublished.get(digest)
        if (place.read(folder) if folder else place.find(digest)) is None:
            raise BuildError(
                f"the environment of `{name}`, {digest}, is not on this machine",
                hint=f"`template-builder build {name} --target {self.name}` builds the current"
                " spec; a check that removes its own environment also causes this",
            )
        if folder:
            environment.activate(digest, folder)
            del self._unpublished[digest]
        leftovers.note_need(digest, self._registry)

    def unused(self, needs: Needs) -> list[Unused]:
        """List environments that nothing needs."""
        from builder.targets.local import leftovers

        return leftovers.unused(self._registry, needs)

    def remove(self, waste: Unused) -> str | None:
        """Remove one; return why not, if it is in use."""
        from builder.targets.local import leftovers

        return leftovers.remove(waste)

    def unsupported(self, variant: Variant) -> tuple[str, ...]:
        """List the features of the variant that need a separate machine."""
        from builder.targets.local.unsupported import unsupported

        return unsupported(variant, confined=self._confines())

    def _confines(self) -> bool:
        """Return whether sandboxes of the user's own templates are confined."""
        from builder.targets.local.confine.remembered import can_confine

        return self._isolation == "confined" and can_confine()

    def blocked(self, variant: Variant) -> str | None:
        """Return why the variant cannot be built: no suitable Python on this machine."""
        if variant.parent:
            from builder.targets.local import inherited

            if why := inherited.missing(variant.parent):
                return why
        if interpreter.choose(variant.python) is not None:
            return None
        return (
            f"no Python on this machine satisfies `base.python` {variant.python};"
            f" `uv python install {variant.python_floor}` installs one"
        )

    def build(self, order: BuildInput, *, report: Reporter, log: Log) -> Built:
        """Make the environment of the variant's digest, or reuse it.

        Call it with the variant claimed. A new environment becomes active when it is published.
        """
        from builder.targets.local.unsupported import missing, unsupported
        from builder.targets.protocol import Built

        rendered = order.rendered
        built, reused = self._environment(order, report, log)
        build_id = rendered.digest.tag
        name = rendered.variant.name
        confined = self._confines_in(built.path, name, report)
        lines = unsupported(rendered.variant, confined=confined)
        lacking = missing(rendered.variant, confined=confined)
        for line in lines:
            kind: Kind = "warning" if line in lacking else "note"
            text = f"not provided by {self.name}: {line}"
            report(Event(kind=kind, variant=name, text=text))
        return Built(
            name=name,
            target=self.name,
            ref=Ref(f"local:{name}@{build_id}"),
            template_id=name,
            build_id=build_id,
            digest=rendered.digest,
            seconds=built.seconds,
            reused=reused,
            size=built.size,
            cold=built.cold,
            warnings=tuple(f"not provided by {self.name}: {line}" for line in lines),
            missing=lacking,
            one_of_many=True,
            folder=built.path,
            notes=(f"Python {built.python} of this machine, ipykernel {built.ipykernel}",),
        )

    def _confines_in(self, environment: Path, name: str, report: Reporter) -> bool:
        """Return whether sandboxes of an environment are confined; report if only they are not."""
        from builder.targets.local.confine import bubblewrap
        from builder.targets.local.confine.confinement import view_of

        if self._isolation == "none":
            return False
        try:
            view_of(environment)
        except bubblewrap.ConfinementError as error:
            self._warn_unconfined(name, error, report)
            return False
        return True

    def _warn_unconfined(self, name: str, error: ConfinementError, report: Reporter) -> None:
        """Warn, once, that this machine confines sandboxes, but not those of this template."""
        from builder.targets.local.confine import bubblewrap

        # If it confines none at all, the first line of the command says so.
        if name not in self._warned and bubblewrap.refusal() is None:
            self._warned.add(name)
            text = f"its sandboxes are NOT confined: {error.message}"
            report(Event(kind="warning", variant=name, text=text))

    def _environment(
        self, order: BuildInput, report: Reporter, log: Log
    ) -> tuple[place.Environment, bool]:
        from builder.targets.local import environment

        rendered, started = order.rendered, time.time()
        digest, name = rendered.digest, rendered.variant.name
        if not order.force and (existing := place.find(digest)):
            return existing, True

        def waiting() -> None:
            text = "waiting for another process to build this"
            report(Event(kind="step", variant=name, text=text))

        claim = self._claims[name]
        claim.enter_context(environment.claimed(digest, waiting=waiting))
        existing = place.find(digest)
        if existing and (not order.force or place.placed_since(digest, started)):
            return existing, True
        folder = environment.make(rendered, report=report, log=log)
        claim.callback(self._discard, digest, folder)
        self._unpublished[digest] = folder
        built = place.read(folder)
        if built is None:
            raise BuildError(f"the environment of `{name}` vanished from {folder}")
        return built, False

    def _discard(self, digest: str, folder: Path) -> None:
        """Remove a new environment that was not published."""
        from builder.targets.local import leftovers

        if self._unpublished.pop(digest, None):
            leftovers.remove_unused(folder)

    def open(self, opening: Opening) -> Sandbox:
        """Start a kernel of the build `local:<name>@sha256-…`, cold unless modules are to be
        imported."""
        from builder.sandbox.blocking import BlockingSession
        from builder.system.limits import room
        from builder.targets.local.kernel import KernelSandbox
        from builder.targets.local.session import LocalSession

        def start(given_up: threading.Event) -> KernelSandbox:
            with room(), self._opened(opening) as folder:
                return KernelSandbox(
                    folder,
                    warm=opening.warm,
                    env=opening.env,
                    confined=self._confined(folder, opening),
                    given_up=given_up,
                )

        return BlockingSession(lambda: LocalSession.of(start))

    def changes(self, ref: str) -> list[str]:
        """Describe files of the build `local:<name>@sha256-…` that were modified later."""
        from builder.targets.local import sealed

        digest = Ref(ref).digest
        try:
            return sealed.changes(self._unpublished.get(digest) or place.folder_of(digest))
        except OSError as error:
            raise from_os_error(error, f"looking at the files of `{ref}`") from error

    def copies(self, opening: Opening) -> Generator[Sandbox, None, None]:
        """Yield two kernels forked from one zygote; none where processes cannot be forked."""
        from builder.sandbox.blocking import BlockingSession
        from builder.targets.local.kernel import KernelSandbox
        from builder.targets.local.launch import CannotForkError, Zygote, forks
        from builder.targets.local.session import LocalSession

        if not forks():
            return
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(self._opened(opening))
            confined = self._confined(folder, opening)
            view = confined.view if confined else None
            zygote = Zygote(folder, warm=opening.warm, env=opening.env, view=view)
            stack.callback(zygote.close)
            zygote.spare.close()  # nobody needs a third sandbox
            stack.enter_context(contextlib.suppress(CannotForkError))

            def start(given_up: threading.Event) -> KernelSandbox:
                zygote.take()
                return KernelSandbox(
                    folder,
                    warm=(),
                    env=opening.env,
                    zygote=zygote,
                    confined=confined,
                    given_up=given_up,
                )

            for _ in range(2):
                with contextlib.closing(BlockingSession(lambda: LocalSession.of(start))) as copy:
                    yield copy

    def _confined(self, folder: Path, opening: Opening) -> Confinement | None:
        """Return how a sandbox of the user's own template is confined; None if that is impossible,
        with a warning."""
        from builder.sandbox.boundary import Boundary
        from builder.targets.local.confine import bubblewrap
        from builder.targets.local.confine.confinement import confinement

        if self._isolation == "none":
            return None
        boundary = Boundary(
            isolation=self._isolation,
            network=opening.network,
            cpu=opening.cpu,
            memory_mb=opening.memory_mb,
        )
        try:
            return confinement(folder, boundary)
        except bubblewrap.ConfinementError as error:
            self._warn_unconfined(opening.name, error, self._report)
            return None

    def _opened(self, opening: Opening) -> AbstractContextManager[Path]:
        """Hold the folder of a build, published or not, for the `with` block."""
        if folder := self._unpublished.get(Ref(opening.ref).digest):
            return contextlib.nullcontext(folder)
        return place.opened(opening.ref, name=opening.name)
