"""Files of a local sandbox: those in its home folder, and none outside.

A path is walked one folder at a time, with descriptors. Links, which the code may have made, are
resolved here, inside the home only, and never by the operating system.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import errno
import logging
import os
import secrets
import stat
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from os.path import normpath
from pathlib import Path
from typing import Literal

from builder.errors import NoSandboxFileError, SandboxFileError
from builder.sandbox.files import (
    LEVELS,
    Changes,
    FileEntry,
    Incoming,
    Listing,
    below,
    shown,
    watched,
)
from builder.system import guard
from builder.system.tasks import run_to_completion
from builder.targets.local.confine.walls import ENVIRONMENT, HOME
from builder.targets.local.home import FETCHED
from builder.targets.local.kernel_host import STABLE_HOME

_Kind = Literal["file", "folder", "link"]
_logger = logging.getLogger(__name__)
_CHUNK_BYTES = 1 << 18
_MOST_LINKS = 40
_MOST_ENTRIES = 5000
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# The clock of a file system ticks: without a step back, code that rewrites a file at once might
# leave its time unchanged.
_STEP_BACK_NS = 20_000_000


class LocalFiles:
    """The files below a home folder. One caller at a time.

    Links to `fetched`, the content that the template has fetched, are followed to read it.
    """

    def __init__(self, home: Path, fetched: Path | None = None, *, confined: object = None) -> None:
        """Behind walls, code sees the home and the fetched content at other paths."""
        self._home = str(home)
        self._fetched = str(fetched) if fetched else None
        self._homes: tuple[str, ...] = (self._home, os.path.realpath(home), STABLE_HOME)
        self._seen = self._fetched
        if confined:
            self._homes, self._seen = (HOME,), f"{ENVIRONMENT}/{FETCHED}"
        self._status = os.stat(home, follow_symlinks=False)
        self._changes = Changes()
        self._cut = False

    @contextlib.asynccontextmanager
    async def read(self, path: str) -> AsyncIterator[Incoming]:
        """Open a file for reading."""
        with _worded(path):
            descriptor = self._opened(path)
        try:
            size = os.fstat(descriptor).st_size
            yield Incoming(size=size, chunks=_chunks(path, descriptor, size))
        finally:
            os.close(descriptor)

    async def write(self, path: str, chunks: AsyncIterator[bytes]) -> FileEntry:
        """Write a file, replacing an existing one in one step."""
        with self._place(path, make=True) as (folder, name):
            temporary = f".{secrets.token_hex(8)}.part"
            with _worded(path):
                if _is_folder(name, folder):
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
                descriptor = os.open(temporary, _NEW_FILE, 0o666, dir_fd=folder)
                _own_like(folder, descriptor)
            try:
                async for chunk in chunks:
                    with _worded(path):
                        await run_to_completion(asyncio.to_thread(_write, descriptor, chunk))
                past = time.time_ns() - _STEP_BACK_NS
                os.utime(descriptor, ns=(past, past))
                with _worded(path):
                    os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
                status = os.fstat(descriptor)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)
                raise
            finally:
                os.close(descriptor)
        self._changes.written(path, _stamp(status))
        return _entry(path, status, "file")

    async def entries(self, path: str) -> list[FileEntry]:
        """List a folder."""
        with _worded(path):
            return [
                _entry(_joined(path, name), status, kind)
                for name, status, kind in self._entries_of(path, follow=True, reading=True)
            ]

    async def remove(self, path: str) -> None:
        """Remove a file, a link, or a folder with its content."""
        with self._place(path, follow=False) as (folder, name), _worded(path):
            if _is_folder(name, folder):
                await run_to_completion(asyncio.to_thread(guard.remove_folder, name, folder))
                if _is_folder(name, folder):
                    raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
            else:
                os.unlink(name, dir_fd=folder)
        self._changes.removed(path)

    async def changed(self) -> list[FileEntry]:
        """Return the files of the working folder that code created or changed since last time."""
        return self._changes.since_last(await run_to_completion(asyncio.to_thread(self._listing)))

    def _listing(self) -> Listing:
        files: dict[str, tuple[FileEntry, object]] = {}
        level, count = ["."], 0
        for depth in range(LEVELS):
            below_it: list[str] = []
            of_level: dict[str, tuple[FileEntry, object]] = {}
            for path in level:
                with contextlib.suppress(OSError, SandboxFileError):  # it may have been removed
                    for name, status, kind in self._entries_of(path, follow=False):
                        count += 1
                        if count > _MOST_ENTRIES:
                            self._warn_once()
                            return Listing(files=files, levels=depth)
                        place = _joined(path, name)
                        if kind == "file":
                            of_level[place] = _entry(place, status, kind), _stamp(status)
                        elif kind == "folder" and watched(name):
                            below_it.append(place)
            files |= of_level
            level = below_it
        return Listing(files=files, levels=LEVELS)

    def _entries_of(
        self, path: str, *, follow: bool, reading: bool = False
    ) -> Iterator[tuple[str, os.stat_result, _Kind]]:
        with self._place(path, follow=follow, reading=reading) as (parent, name):
            folder = os.open(name, _FOLDER, dir_fd=parent)
            try:
                for entry in _entries(folder):
                    yield self._seen_through(folder, *entry) if reading else entry
            finally:
                os.close(folder)

    def _seen_through(
        self, folder: int, name: str, status: os.stat_result, kind: _Kind
    ) -> tuple[str, os.stat_result, _Kind]:
        """Return an entry of a folder, for a link to fetched content with what it leads to."""
        target = _link_target(name, folder) if kind == "link" else None
        target = normpath(target) if target else None
        if target is None or not (self._seen and below(target, self._seen)):
            return name, status, kind
        with contextlib.suppress(OSError):
            status = os.stat(f"{self._fetched}{target.removeprefix(self._seen)}")
            kind = "folder" if stat.S_ISDIR(status.st_mode) else "file"
        return name, status, kind

    def _warn_once(self) -> None:
        if not self._cut:
            self._cut = True
            _logger.warning(
                "the working folder has more than %d files: not all changed files are listed",
                _MOST_ENTRIES,
            )

    def _opened(self, path: str) -> int:
        """Open a regular file; a pipe or device might block forever."""
        with self._place(path, reading=True) as (folder, name):
            descriptor = os.open(name, _FILE, dir_fd=folder)
        kind = os.fstat(descriptor).st_mode
        if stat.S_ISREG(kind):
            return descriptor
        os.close(descriptor)
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        raise SandboxFileError(f"{shown(path)} in the sandbox is not a regular file")

    @contextlib.contextmanager
    def _place(
        self,
        path: str,
        *,
        make: bool = False,
        follow: bool | None = None,
        reading: bool = False,
    ) -> Iterator[tuple[int, str]]:
        """Yield the open folder of a path, and the name in it, which is `.` for the home itself.

        A link at the end is followed unless `make` is True or `follow` is False. Links to fetched
        content are only followed for `reading`.
        """
        follow = not make if follow is None else follow
        with _worded(path):
            folders = [os.open(self._home, _FOLDER)]
        try:
            if not os.path.samestat(os.fstat(folders[0]), self._status):
                raise SandboxFileError(
                    "code has replaced the sandbox's folder",
                    hint="open another sandbox",
                )
            with _worded(path):
                name = self._walk(path, folders, make=make, follow=follow, reading=reading)
            yield folders[-1], name
        finally:
            _close(folders)

    def _walk(
        self, path: str, folders: list[int], *, make: bool, follow: bool, reading: bool
    ) -> str:
        """Open the parent folders of a path, one after another; return the last name."""
        ahead, links = deque(self._inside(path).split("/")), 0
        while ahead:
            part = ahead.popleft()
            target = _link_target(part, folders[-1]) if ahead or follow else None
            if target is not None:
                links += 1
                if links > _MOST_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                if target.startswith("/"):
                    target = self._start_at(target, folders, reading=reading)
                ahead.extendleft(reversed(target.split("/")))
            elif part == "..":
                if len(folders) == 1:
                    raise _outside(path)
                _close([folders.pop()])
            elif part not in ("", "."):
                if not ahead:
                    return part
                folders.append(_entered(part, folders[-1], make=make))
        return "."

    def _start_at(self, target: str, folders: list[int], *, reading: bool) -> str:
        """Go back to the home, or to the fetched content, for the absolute target of a link; return
        the path from there."""
        if reading and self._fetched and self._seen and below(target, self._seen):
            folders.append(os.open(self._fetched, _FOLDER))
            _close(folders[:-1])
            del folders[:-1]
            return os.path.relpath(target, self._seen)
        target = self._inside(target)
        _close(folders[1:])
        del folders[1:]
        return target

    def _inside(self, path: str) -> str:
        """Return a path relative to the home. Raises `SandboxFileError` for one outside."""
        if not path.startswith("/"):
            return path
        for home in self._homes:
            if below(path, home):
                return os.path.relpath(path, home)
        raise _outside(path)


def _outside(path: str) -> SandboxFileError:
    return SandboxFileError(
        f"{shown(path)} is outside the sandbox's folder",
        hint="on this machine, only files in the sandbox's working folder can be used",
    )


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _entered(name: str, folder: int, *, make: bool) -> int:
    created = False
    if make:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, dir_fd=folder)
            created = True
    descriptor = os.open(name, _FOLDER, dir_fd=folder)
    if created:
        _own_like(folder, descriptor)
    return descriptor


def _own_like(folder: int, descriptor: int) -> None:
    """Have what was made in a folder belong to its owner: not to root, but to a sandbox's user."""
    status = os.fstat(folder)
    if status.st_uid != os.geteuid():
        os.fchown(descriptor, status.st_uid, status.st_gid)


def _link_target(name: str, folder: int) -> str | None:
    try:
        return os.readlink(name, dir_fd=folder)
    except OSError:
        return None  # not a link, or missing


def _is_folder(name: str, folder: int) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _entries(folder: int) -> Iterator[tuple[str, os.stat_result, _Kind]]:
    """Yield the files, folders and links of an open folder whose names are text."""
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError, UnicodeEncodeError):
                entry.name.encode()
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode):
                    yield entry.name, status, "file"
                elif stat.S_ISDIR(status.st_mode):
                    yield entry.name, status, "folder"
                elif stat.S_ISLNK(status.st_mode):
                    yield entry.name, status, "link"


def _joined(folder: str, name: str) -> str:
    return name if folder == "." else f"{folder}/{name}"


def _entry(path: str, status: os.stat_result, kind: _Kind) -> FileEntry:
    return FileEntry(
        name=os.path.basename(path),
        path=path,
        size=status.st_size,
        type=kind,
        modified=dt.datetime.fromtimestamp(status.st_mtime, dt.UTC),
    )


def _stamp(status: os.stat_result) -> object:
    return status.st_size, status.st_mtime_ns, status.st_ino


async def _chunks(path: str, descriptor: int, size: int) -> AsyncIterator[bytes]:
    left = size
    while left:
        with _worded(path):
            reading = asyncio.to_thread(os.read, descriptor, min(left, _CHUNK_BYTES))
            chunk = await run_to_completion(reading)
        if not chunk:
            raise SandboxFileError(
                f"{shown(path)} changed while it was read: it had {size:,} bytes, and then only"
                f" {size - left:,}"
            )
        left -= len(chunk)
        yield chunk


def _write(descriptor: int, chunk: bytes) -> None:
    left = memoryview(chunk)
    while left:
        left = left[os.write(descriptor, left) :]


@contextlib.contextmanager
def _worded(path: str) -> Iterator[None]:
    """Translate an `OSError` about a path."""
    try:
        yield
    except NoSandboxFileError:
        raise
    except FileNotFoundError as error:
        raise NoSandboxFileError(f"the sandbox has no {shown(path)}") from error
    except IsADirectoryError as error:
        raise SandboxFileError(f"{shown(path)} in the sandbox is a folder, not a file") from error
    except NotADirectoryError as error:
        raise SandboxFileError(
            f"{shown(path)} in the sandbox: there is a file where a folder is expected"
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SandboxFileError(
                f"the sandbox's disk is full: there is no room for {shown(path)}",
                hint="remove files in the sandbox, or free space where temporary files are kept",
            ) from error
        raise SandboxFileError(f"{shown(path)} in the sandbox: {error.strerror}") from error
