"""The files of a folder, without those that Docker would ignore."""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterator
from pathlib import Path

from e2b_dockerfile_utils import PatternMatcher

from builder.errors import from_os_error

# Of version control and of this program: no source copies them on purpose.
_NEVER = {".git", ".builder", ".venv", "__pycache__"}
_MAX_BYTES = 64 << 20


class Folder:
    """The files of a folder. Symbolic links are followed as long as they stay inside."""

    def __init__(self, root: Path, *, without: Path | None = None, dockerfile: str = "") -> None:
        """`without` is the variants folder, which is not copied into itself; `dockerfile` may have
        a `.dockerignore` of its own."""
        self._root = Path(os.path.realpath(root))
        self._without = without and Path(os.path.realpath(without))
        text = self._text(f"{dockerfile}.dockerignore") or self._text(".dockerignore")
        lines = [line.strip() for line in text.splitlines()]
        patterns = [line for line in lines if line and not line.startswith("#")]
        try:
            self._ignored = PatternMatcher(patterns)
        except ValueError:
            self._ignored = PatternMatcher([])

    def content(self, path: str) -> bytes | None:
        """Return the content of a file, or None if there is no such file."""
        place = self._place(path)
        if place is None:
            return None
        try:
            if place.stat().st_size > _MAX_BYTES:
                return None
            return place.read_bytes()
        except OSError as error:
            raise from_os_error(error, f"reading `{path}`") from error

    def is_executable(self, path: str) -> bool:
        """Return whether everybody may execute a file."""
        place = self._place(path)
        return place is not None and bool(place.stat().st_mode & 0o001)

    def below(self, folder: str) -> Iterator[str]:
        """Yield the path of every file below a folder, sorted."""
        start = self._root / folder
        for current, folders, names in os.walk(start):
            folders[:] = sorted(
                name
                for name in folders
                if name not in _NEVER and Path(current, name) != self._without
            )
            for name in sorted(names):
                path = posixpath.normpath(Path(current, name).relative_to(self._root).as_posix())
                if not self._ignored.matches(path) and self._place(path):
                    yield path

    def _place(self, path: str) -> Path | None:
        """Return the real path of a regular file inside the folder."""
        place = Path(os.path.realpath(self._root / path))
        if not place.is_relative_to(self._root):
            return None
        try:
            return place if stat.S_ISREG(place.stat().st_mode) else None
        except OSError:
            return None

    def _text(self, name: str) -> str:
        place = self._place(name)
        return place.read_text("utf-8", "replace") if place else ""
