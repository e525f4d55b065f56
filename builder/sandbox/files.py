"""Files of a sandbox: how they are named, what is known of one, which ones the code has changed.

Pure. The targets read and write them; applications use `builder.runtime.files`.
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

# The folder that code starts in. The local target has another place for it.
WORKING_FOLDER = "/home/user"
# How many levels of folders are searched for changes, the working folder included.
LEVELS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class FileEntry:
    """A file, folder or link of a sandbox.

    `path` is relative to the working folder for what is below it, `size` in bytes, `modified` in
    UTC.
    """

    name: str
    path: str
    size: int
    type: Literal["file", "folder", "link"]
    modified: dt.datetime

    @property
    def mime_type(self) -> str:
        """The MIME type that belongs to the name, `application/octet-stream` if none does."""
        kind, encoding = mimetypes.guess_type(self.name)
        return kind if kind and not encoding else "application/octet-stream"


@dataclass(frozen=True, kw_only=True, slots=True)
class Incoming:
    """A file that is open for reading: its size when it was opened, and its content."""

    size: int
    chunks: AsyncIterator[bytes]


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """The files below a working folder, by path, each with a stamp that changes with its content.

    All files of the first `levels` levels of folders are in it.
    """

    files: Mapping[str, tuple[FileEntry, object]]
    levels: int


class SandboxFiles(Protocol):
    """The files of one sandbox; one caller at a time. The targets provide it.

    Paths are normal (`normal_path`). All of it raises `NoSandboxFileError`,
    `SandboxFileError`, and where the sandbox is a machine elsewhere `SandboxGoneError` and
    `NetworkError`.
    """

    def read(self, path: str) -> AbstractAsyncContextManager[Incoming]:
        """Open a file for reading, for the `async with` block."""
        ...

    async def write(self, path: str, chunks: AsyncIterator[bytes]) -> FileEntry:
        """Write a file and the folders on the way to it; if that fails, nothing has changed."""
        ...

    async def entries(self, path: str) -> list[FileEntry]:
        """List what is in a folder."""
        ...

    async def remove(self, path: str) -> None:
        """Remove a file, a link, or a folder and all in it."""
        ...

    async def changed(self) -> list[FileEntry]:
        """Return the files of the working folder that code has made or changed since last time."""
        ...


class Changes:
    """Tells what code has created or changed from what was there before or written for it."""

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
        """Take note of a file that the application, not the code, has written."""
        if self._stamps is not None:
            self._stamps[path] = stamp

    def removed(self, path: str) -> None:
        """Take note of what the application has removed."""
        if self._stamps is not None:
            self._stamps.pop(path, None)


def watched(folder: str) -> bool:
    """Return whether changes in folders of this name are of interest."""
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
        raise ValueError(f"a path cannot hold a null character: {text!r}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"a path cannot hold half of a character: {text!r}") from None
    full = posixpath.normpath(posixpath.join(WORKING_FOLDER, text))
    full = "/" + full.lstrip("/")  # POSIX keeps two slashes at the beginning
    return posixpath.relpath(full, WORKING_FOLDER) if below(full, WORKING_FOLDER) else full


def below(path: str, folder: str) -> bool:
    """Return whether an absolute path is a folder or below it."""
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")


def shown(path: str) -> str:
    """A path as a message shows it, on one line."""
    return f"`{path}`" if path.isprintable() else repr(path)
