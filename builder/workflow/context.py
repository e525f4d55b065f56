"""The context of a run: project, target, registry, reporter and clock."""

from __future__ import annotations

import datetime as dt
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from builder import registry
from builder.errors import TargetUnavailableError
from builder.project import Project, TargetSettings
from builder.registry.model import Entry
from builder.system.events import Event, Reporter, discard
from builder.targets.adapters import choose, connect, isolation_in_words

if TYPE_CHECKING:
    from builder.targets.protocol import Target


def read_registry(project: Project) -> registry.Registry:
    """Return the project's registry, empty if there is none yet. Raise `RegistryError`."""
    location = project.registry
    if not registry.is_url(location):
        recorded = os.path.lexists(location)
        return registry.load(location).checked() if recorded else registry.empty(location)
    from builder.registry.object_store import NoRegistryError

    try:
        return registry.load(location).checked()
    except NoRegistryError:
        return registry.empty(location)


class Recorded:
    """The current registry of a project, read again only if its file has changed.

    Read it after waiting for a claim, to see what others have recorded. `builder.record` reads the
    registry under its lock before it writes.
    """

    def __init__(self, project: Project) -> None:
        self._project = project
        self._lock = threading.Lock()
        self._read: tuple[object, registry.Registry] | None = None

    def now(self) -> registry.Registry:
        """Return the registry. Raise `RegistryError`."""
        with self._lock:
            state = self._state()
            if self._read is None or state is None or state != self._read[0]:
                self._read = state, read_registry(self._project)
            return self._read[1]

    def _state(self) -> object:
        """Return a value that changes with the file; None if the registry must be read."""
        try:
            status = os.stat(self._project.registry)
        except OSError:  # missing, or an object in a store, which is read by its ETag
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """Everything that a stage takes from outside; `target` is an error if it cannot be used."""

    project: Project
    settings: TargetSettings | None = None
    target: Target | TargetUnavailableError = field(
        default_factory=lambda: TargetUnavailableError("no target was chosen")
    )
    report: Reporter = discard
    clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC)
    registry: Recorded = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "registry", Recorded(self.project))

    @classmethod
    def choose(
        cls,
        project: Project,
        target: str | None,
        *,
        report: Reporter,
        connected: bool = True,
        opens: bool = False,
    ) -> Context:
        """Return the context of a run for `target`, by default the usual target, and report which
        it is and why; for a run that `opens` sandboxes, also how they are isolated. Raise
        `TargetUnavailableError` for an unknown name."""
        settings, why = choose(project, target)
        if opens:
            why += isolation_in_words(settings, project)
        report(Event(kind="note", text=why))
        context = cls(project=project, settings=settings, report=report)
        if not connected:
            return context
        try:
            return replace(context, target=connect(settings, project, report=report))
        except TargetUnavailableError as error:
            return replace(context, target=error)

    @property
    def target_name(self) -> str:
        """Return the name of the target."""
        assert self.settings, "no target was chosen"
        return self.settings.name

    def connected(self) -> Target:
        """Return the target. Raise `TargetUnavailableError` if it cannot be used."""
        if isinstance(self.target, TargetUnavailableError):
            raise self.target
        return self.target

    def entry(self, name: str) -> Entry:
        """Return the current entry of template `name` on the target."""
        return self.registry.now().contents.entry(name, self.target_name)
