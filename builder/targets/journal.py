"""Builds under way on another machine, on disk before anybody waits for them.

A run that was killed left its entry behind; the next one finds it and takes the build up again. An
entry is a file of its own below `.builder/journal/<target>/`, held under a lock that dies with the
process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter

from builder.errors import from_os_error
from builder.registry.history import now
from builder.system.files import atomic_write, exclusive
from builder.system.processes import check_not_stopped
from builder.system.regular_file import read_regular

_LONGEST_BYTES = 1 << 16
_Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One build that was begun: what it is of, and its IDs once they are known.

    `verifying` says that sandboxes were, or were about to be, opened for it; `forced` that it was
    to run every step anew, `expected_cached` how many first steps should have come from the cache.
    """

    name: str
    digest: str
    started_at: str
    template_id: _Id | None = None
    build_id: _Id | None = None
    verifying: bool = False
    forced: bool = False
    expected_cached: int = 0


_ENTRY = TypeAdapter(Entry)


class Journal:
    """The entries of one target, by the names of their templates."""

    def __init__(self, folder: Path, *, target: str) -> None:
        self._folder = folder / target

    @property
    def owner(self) -> str:
        """An ID of this project's journal, made once: what it opens elsewhere carries it."""
        path = self._folder / ".owner"
        with exclusive(self._folder / ".owner.lock"):
            with contextlib.suppress(OSError, ValueError):
                return str(uuid.UUID(path.read_text(encoding="ascii").strip()))
            made = str(uuid.uuid4())
            atomic_write(path, f"{made}\n".encode())
            return made

    @contextlib.contextmanager
    def claimed(
        self, name: str, *, waiting: Callable[[], None] | None = None, wait: bool = True
    ) -> Iterator[None]:
        """Hold the entry of `name` against other threads and processes; see `files.exclusive`."""
        with exclusive(
            self._folder / f"{name}.lock", waiting=waiting, check=check_not_stopped, wait=wait
        ):
            yield

    def begin(
        self, name: str, digest: str, *, forced: bool = False, expected_cached: int = 0
    ) -> Entry:
        """Write the entry of a build that is about to be asked for."""
        entry = Entry(
            name=name,
            digest=digest,
            started_at=now(),
            forced=forced,
            expected_cached=expected_cached,
        )
        return self.write(entry)

    def write(self, entry: Entry) -> Entry:
        """Write an entry, in one step. Raises `StorageError`."""
        text = json.dumps(dataclasses.asdict(entry), indent=2, sort_keys=True) + "\n"
        atomic_write(self._path(entry.name), text.encode())
        return entry

    def read(self, name: str) -> Entry | None:
        """The entry of `name`; None where there is none, or none that can be read."""
        try:
            text = read_regular(self._path(name), _LONGEST_BYTES)
            entry = _ENTRY.validate_json(text, strict=True)
        except (OSError, ValueError):
            return None
        return entry if entry.name == name else None

    def remove(self, name: str) -> None:
        """Forget the entry of `name`: it was finished, or given up. Raises `StorageError`."""
        try:
            self._path(name).unlink(missing_ok=True)
        except OSError as error:
            raise from_os_error(error, "writing the journal") from error

    def forget(self, name: str, build_id: str) -> None:
        """Remove the entry of `name` where it is that of a build, which no run is to take up."""
        entry = self.read(name)
        if entry and entry.build_id == build_id:
            self.remove(name)

    def names(self) -> list[str]:
        """The names that have an entry."""
        return sorted(path.stem for path in self._folder.glob("*.json"))

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"
