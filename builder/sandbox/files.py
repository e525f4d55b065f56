"""Files of a sandbox: their paths, their entries, and which ones code has changed.

Pure: targets read and write them; applications use `builder.runtime.files`.
"""

from __future__ import annotations

import datetime as dt
import mimetypes
import os
import posixpath
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

# The folder that code starts in; on `local` it is elsewhere.
WORKING_FOLDER = "/home/user"
# The levels of folders searched for changes, including the working folder.
LEVELS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class FileEntry:
    """A file, folder or link of a sandbox.

    `path` is relative inside the working folder, absolute elsewhere; `size` is in bytes, `modified`
    in UTC.
    """

    name: str
    path: str
    size: int
    type: Literal["file", "folder", "link"]
    modified: dt.datetime

    @property
    def mime_type(self) -> str:
        """The MIME type for the name, `application/octet-stream` if unknown."""
        kind, encoding = mimetypes.guess_type(self.name)
        return kind if kind and not encoding else "application/octet-stream"


@dataclass(frozen=True, kw_only=True, slots=True)
class Incoming:
    """A file open for reading: its size when it was opened, and its content."""

    size: int
    chunks: AsyncIterator[bytes]


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """The files below a working folder, by path, each with a stamp that changes with its content.

    It holds all files of the first `levels` levels of folders.
    """

    files: Mapping[str, tuple[FileEntry, object]]
    levels: int


class SandboxFiles(Protocol):
    """The files of one sandbox, implemented by each target; one caller at a time.

    Paths are normal (`normal_path`). All methods raise `NoSandboxFileError`, `SandboxFileError`
    and, if the sandbox is on another machine, `SandboxGoneError` and `NetworkError`.
    """

    def read(self, path: str) -> AbstractAsyncContextManager[Incoming]:
        """Open a file for reading, for the `async with` block."""

    async def write(self, path: str, chunks: AsyncIterator[bytes]) -> FileEntry:
        """Write a file and its parent folders; if that fails, nothing has changed."""

    async def entries(self, path: str) -> list[FileEntry]:
        """List a folder."""

    async def remove(self, path: str) -> None:
        """Remove a file, a link, or a folder with its content."""

    async def changed(self) -> list[FileEntry]:
        """Return the files of the working folder that code created or changed since last time."""


class Changes:
    """Finds the files that code, and not the application, created or changed."""

    def __init__(self) -> None:
        self._stamps: dict[str, object] | None = None
        self._levels = 0

    def since_last(self, listing: Listing) -> list[FileEntry]:
        """Return the files that are new or changed since the last call; none at the first."""
        stamps, levels = self._stamps, self._levels
        self._stamps = {path: stamp for path, (_, stamp) in listing.files.items()}
        self._levels = listing.levels
        if stamps is None:
            return []
        return [
            entry
            for path, (entry, stamp) in sorted(listing.files.items())
            if stamps.get(path) != stamp and (path in stamps or path.count("/") < levels)
        ]

    def written(self, path: str, stamp: object) -> None:
        """Record a file that the application wrote."""
        if self._stamps is not None:
            self._stamps[path] = stamp

    def removed(self, path: str) -> None:
        """Record a file that the application removed."""
        if self._stamps is not None:
            self._stamps.pop(path, None)


def watched(folder: str) -> bool:
    """Return whether changes in folders of this name are reported."""
    return not folder.startswith(".") and folder != "__pycache__"


def normal_path(path: str | os.PathLike[str]) -> str:
    """Return a path in its shortest form: relative to the working folder, or absolute.

    Raises `TypeError` and `ValueError` for what cannot be a path.
    """
    text = os.fspath(path)
    if not isinstance(text, str):
        raise TypeError(f"a path in a sandbox is text, not {type(text).__name__}")
    if not text:
        raise ValueError("the path of a file in the sandbox is empty")
    if "\0" in text:
        raise ValueError(f"a path cannot contain a null character: {text!r}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"a path cannot contain an unpaired surrogate: {text!r}") from None
    full = posixpath.normpath(posixpath.join(WORKING_FOLDER, text))
    full = "/" + full.lstrip("/")  # POSIX keeps two slashes at the beginning
    return posixpath.relpath(full, WORKING_FOLDER) if below(full, WORKING_FOLDER) else full


def below(path: str, folder: str) -> bool:
    """Return whether an absolute path is a folder or below it."""
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")


def shown(path: str) -> str:
    """Return a path for a message, on one line."""
    return f"`{path}`" if path.isprintable() else repr(path)
