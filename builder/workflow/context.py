"""What a run works with: the project, the target, the registry, who is told, and the time."""

from __future__ import annotations

import datetime as dt
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from builder import registry
from builder.errors import TargetUnavailableError
from builder.project import Project, TargetSettings
from builder.registry.model import Entry
from builder.registry.object_store import NoRegistryError
from builder.system.events import Event, Reporter, discard
from builder.targets.adapters import choose, connect
from builder.targets.protocol import Target


def read_registry(project: Project) -> registry.Registry:
    """The project's registry; empty where there is none yet. Raises `RegistryError`."""
    location = project.registry
    if not registry.is_url(location) and not os.path.lexists(location):
        return registry.empty(location)
    try:
        return registry.load(location).checked()
    except NoRegistryError:
        return registry.empty(location)


class Recorded:
    """A project's registry as it is now: read once, and again only where the file was changed.

    Whoever holds a claim asks it for what others have recorded while the claim was waited for; what
    is written is decided on what `builder.record` reads under the registry's own lock.
    """

    def __init__(self, project: Project) -> None:
        self._project = project
        self._lock = threading.Lock()
        self._read: tuple[object, registry.Registry] | None = None

    def now(self) -> registry.Registry:
        """The registry. Raises `RegistryError`."""
        with self._lock:
            state = self._state()
            if self._read is None or state is None or state != self._read[0]:
                self._read = state, read_registry(self._project)
            return self._read[1]

    def _state(self) -> object:
        """What changes whenever the file does; None where only reading tells."""
        try:
            status = os.stat(self._project.registry)
        except OSError:  # not there, or an object in a store, which is asked with its ETag
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns


def _no_target() -> TargetUnavailableError:
    return TargetUnavailableError("no target was chosen")


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """All that a stage takes from outside. `target` is an error where it cannot be used; `settings`
    are those of the target that is meant all the same."""

    project: Project
    settings: TargetSettings | None = None
    target: Target | TargetUnavailableError = field(default_factory=_no_target)
    report: Reporter = discard
    clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC)
    registry: Recorded = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "registry", Recorded(self.project))

    @classmethod
    def choose(
        cls, project: Project, target: str | None, *, report: Reporter, connected: bool = True
    ) -> Context:
        """The context of a run for `target`, or for the one that is meant where none is named;
        reports which, and why. Raises `TargetUnavailableError` for a name that no target has."""
        settings, why = choose(project, target)
        report(Event(kind="note", text=why))
        if not connected:
            return cls(project=project, settings=settings, report=report)
        try:
            adapter: Target | TargetUnavailableError = connect(settings, project, report=report)
        except TargetUnavailableError as error:
            adapter = error
        return cls(project=project, settings=settings, target=adapter, report=report)

    @property
    def target_name(self) -> str:
        """What the target that is meant is called."""
        assert self.settings, "no target was chosen"
        return self.settings.name

    def connected(self) -> Target:
        """The target. Raises `TargetUnavailableError` where it cannot be used."""
        if isinstance(self.target, TargetUnavailableError):
            raise self.target
        return self.target

    def entry(self, name: str) -> Entry:
        """What the registry has of template `name` on the target now."""
        return self.registry.now().contents.entry(name, self.target_name)
