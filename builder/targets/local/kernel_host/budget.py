"""The memory and disk that all processes of a sandbox use together.

The keeper measures them from inside the walls. It only looks at files that the code has created.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

from . import sockets

_SHORTEST, _LONGEST = 0.1, 0.5
_DISK_SECONDS = 1.0
_FILES_BETWEEN = 256  # looks at the clock, since memory is not left alone while files are counted
_DISK_SHARE = 20  # looking at the files takes at most this part of the time
_DESCRIPTOR_BYTES = 4096  # of memory in the kernel: of two descriptors of a pipe, two pages
_FREE_DESCRIPTORS = 64  # for which each process has a place
_NAME_BYTES = 1024  # of a file in memory, however small
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


_Step = TypeVar("_Step")


class _GivenUpError(Exception):
    """There is something else to do."""


class Budget:
    """Limits in bytes: `memory` for processes and the file systems in `memory_folders`, `disk` and
    a number of `files` for `folders`. Without limits, nothing is exceeded."""

    def __init__(self, limits: dict[str, Any]) -> None:
        self._memory: int = limits.get("memory", 0)
        self._disk: int = limits.get("disk", 0)
        self._files: int = limits.get("files", 0)
        self._folders: list[str] = limits.get("folders", [])
        self._in_memory: list[str] = limits.get("memory_folders", [])
        self._seconds, self._used = _SHORTEST, 0
        self._disk_again = 0.0
        self._busy: Callable[[], bool] = lambda: False

    def pause(self) -> int | None:
        """Return the milliseconds until the next look, or None for never."""
        return int(1000 * self._seconds) if self._memory else None

    def breach(self, busy: Callable[[], bool] = lambda: False) -> str:
        """Return which limit is exceeded: "memory", "disk" or "files"; empty if none is. A look,
        which takes seconds in a sandbox of many busy processes, is given up when the caller is
        `busy`."""
        if not self._memory:
            return ""
        self._busy = busy
        try:
            return "memory" if self._memory_used() > self._memory else self._disk_breach()
        except _GivenUpError:
            return ""

    def _memory_used(self) -> int:
        """Return the memory in use. Far below the limit, the result may be too high."""
        kernel = sum(map(_size_of_file_system, self._in_memory)) + sockets.memory()
        processes = dict(self._going_on(_processes()))
        used = kernel + sum(each.pages + each.kernel for each in processes.values())
        # Look less often while nothing changes.
        self._seconds = _SHORTEST if used != self._used else min(2 * self._seconds, _LONGEST)
        self._used = used
        if used > self._memory:  # shared memory was counted once for each process
            used = kernel + self._shares(processes, self._memory - kernel)
        return used

    def _shares(self, processes: dict[str, _Process], enough: int) -> int:
        """Return the memory of processes with their share of shared memory, or any number beyond
        `enough` once there is more."""
        used = 0
        largest = sorted(processes.items(), key=lambda each: -each[1].pages)
        for folder, process in self._going_on(largest):
            share = _kib(_fields(folder, "smaps_rollup"), "Pss", "SwapPss")
            if not share and (now := _process(folder.partition("/task/")[0])):
                share = now[1].pages  # it does not show its share, but has not ended
            if share:
                used += process.kernel + share
            if used > enough:
                break
        return used

    def _going_on(self, steps: Iterable[_Step]) -> Iterator[_Step]:
        """Yield steps of a long look until it is given up."""
        for step in steps:
            if self._busy():
                raise _GivenUpError
            yield step

    def _disk_breach(self) -> str:
        start = time.monotonic()
        if start < self._disk_again:
            return ""
        memory_again = start + _SHORTEST
        size = count = 0
        try:
            for status in itertools.chain(_deleted(self._folders), _files(self._folders)):
                size += status.st_blocks * 512
                count += 1
                if count % _FILES_BETWEEN == 0 and time.monotonic() > memory_again:
                    if self._memory_used() > self._memory:
                        return "memory"
                    memory_again = time.monotonic() + _SHORTEST
        except OSError:  # folders are nested deeper than this process can open files
            return "files"
        end = time.monotonic()
        self._disk_again = end + max(_DISK_SECONDS, _DISK_SHARE * (end - start))
        return "disk" if size > self._disk else "files" if count > self._files else ""


class _Process(NamedTuple):
    """The bytes of a process: of its `pages`, with those that it shares, and of what the `kernel`
    keeps for it."""

    pages: int
    kernel: int


def _processes() -> Iterator[tuple[str, _Process]]:
    """Yield each process with its folder, as `_process` does."""
    for process in filter(str.isdigit, _names("/proc")):
        if measured := _process(f"/proc/{process}"):
            yield measured


def _process(process: str) -> tuple[str, _Process] | None:
    """Return a process with its folder in /proc: that of another thread if its first one has
    ended, since its own then shows neither memory nor files. None if the process has ended."""
    for folder in _folders_of(process):
        fields = _fields(folder, "status")
        if pages := _kib(fields, "VmRSS", "VmSwap"):
            descriptors = max(0, int(fields["FDSize"]) - _FREE_DESCRIPTORS)
            kernel = _kib(fields, "VmPTE") + _DESCRIPTOR_BYTES * descriptors
            return folder, _Process(pages, kernel)
    return None


def _folders_of(process: str) -> Iterator[str]:
    yield process
    yield from (f"{process}/task/{thread}" for thread in _names(f"{process}/task"))


def _names(folder: str) -> list[str]:
    with contextlib.suppress(OSError):
        return os.listdir(folder)
    return []


def _fields(process: str, name: str) -> dict[str, str]:
    """Return the fields of a file about a process; none if it has ended."""
    with contextlib.suppress(OSError), open(f"{process}/{name}", errors="replace") as file:
        return {field: value for field, _, value in (line.partition(":") for line in file)}
    return {}


def _kib(fields: dict[str, str], *names: str) -> int:
    """Return the sum of some fields in bytes; 0 if there are none."""
    return sum(int(fields[name].split()[0]) << 10 for name in names if name in fields)


def _size_of_file_system(folder: str) -> int:
    with contextlib.suppress(OSError):
        status = os.statvfs(folder)
        blocks = (status.f_blocks - status.f_bfree) * status.f_frsize
        return blocks + _NAME_BYTES * (status.f_files - status.f_ffree)
    return 0


def _files(folders: list[str]) -> Iterator[os.stat_result]:
    """Yield the status of everything in folders, at any depth. Raises `OSError` if there is too
    much."""
    for folder in folders:
        with contextlib.suppress(FileNotFoundError):
            yield from _below(os.open(folder, _FOLDER))


def _below(folder: int) -> Iterator[os.stat_result]:
    """Yield the status of everything below an open folder, and close the folder. Paths may be
    longer than system calls accept."""
    left: list[tuple[int, list[str]]] = []
    try:
        left.append((folder, []))
        yield from _entries(*left[-1])
        while left:
            parent, names = left[-1]
            if not names:
                os.close(parent)
                left.pop()
                continue
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                child = os.open(names.pop(), _FOLDER, dir_fd=parent)
                left.append((child, []))
                yield from _entries(*left[-1])
    finally:
        for descriptor, _ in left:
            os.close(descriptor)


def _entries(folder: int, folders: list[str]) -> Iterator[os.stat_result]:
    """Yield the status of each entry of an open folder, and add the names of its folders to
    `folders`."""
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                yield entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.name)


def _deleted(folders: list[str]) -> list[os.stat_result]:
    """Return the status of deleted files that a process has open, on the file systems of
    folders."""
    devices = set()
    for folder in folders:
        with contextlib.suppress(OSError):
            devices.add(os.stat(folder).st_dev)
    deleted: dict[int, os.stat_result] = {}
    for process, _ in _processes():
        for number in _names(f"{process}/fd"):
            with contextlib.suppress(OSError):
                status = os.stat(f"{process}/fd/{number}")
                if status.st_nlink == 0 and status.st_dev in devices:
                    deleted[status.st_ino] = status
    return list(deleted.values())
