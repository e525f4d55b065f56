"""The journal of builds that run on a target, written before anything waits for them.

If a run is killed, its entry remains; the next run finds it and resumes the build. Each entry is a
file in `.builder/journal/<target>/`, held under a lock that ends with the process.
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
    """A build that was started, with its IDs once they are known.

    `verifying` means that sandboxes of it may run, `forced` that it was to run every step again,
    `expected_cached` how many first steps should come from the cache.
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
    """The entries of one target, by template name."""

    def __init__(self, folder: Path, *, target: str) -> None:
        self._folder = folder / target

    @property
    def owner(self) -> str:
        """Return the ID of this project's journal, which marks what the project opens elsewhere."""
        path = self._folder / ".owner"
        with exclusive(self._folder / ".owner.lock"):
            with contextlib.suppress(OSError, ValueError):
                return str(uuid.UUID(path.read_text(encoding="ascii").strip()))
            owner = str(uuid.uuid4())
            atomic_write(path, f"{owner}\n".encode())
            return owner

    @contextlib.contextmanager
    def claimed(
        self, name: str, *, waiting: Callable[[], None] | None = None, wait: bool = True
    ) -> Iterator[None]:
        """Keep other threads and processes from the entry of `name`; see `files.exclusive`."""
        with exclusive(
            self._folder / f"{name}.lock", waiting=waiting, check=check_not_stopped, wait=wait
        ):
            yield

    def begin(
        self, name: str, digest: str, *, forced: bool = False, expected_cached: int = 0
    ) -> Entry:
        """Write the entry of a build that is about to be requested."""
        entry = Entry(
            name=name,
            digest=digest,
            started_at=now(),
            forced=forced,
            expected_cached=expected_cached,
        )
        return self.write(entry)

    def write(self, entry: Entry) -> Entry:
        """Write an entry atomically. Raises `StorageError`."""
        text = json.dumps(dataclasses.asdict(entry), indent=2, sort_keys=True) + "\n"
        atomic_write(self._path(entry.name), text.encode())
        return entry

    def read(self, name: str) -> Entry | None:
        """Return the entry of `name`, or None if it is missing or unreadable."""
        try:
            text = read_regular(self._path(name), _LONGEST_BYTES)
            entry = _ENTRY.validate_json(text, strict=True)
        except (OSError, ValueError):
            return None
        return entry if entry.name == name else None

    def remove(self, name: str) -> None:
        """Remove the entry of `name`. Raises `StorageError`."""
        try:
            self._path(name).unlink(missing_ok=True)
        except OSError as error:
            raise from_os_error(error, "writing the journal") from error

    def forget(self, name: str, build_id: str) -> None:
        """Remove the entry of `name` if it is of this build, so that no run resumes it."""
        entry = self.read(name)
        if entry and entry.build_id == build_id:
            self.remove(name)

    def names(self) -> list[str]:
        """Return the names that have an entry."""
        return sorted(path.stem for path in self._folder.glob("*.json"))

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"
