"""The memory and disk that all processes of a sandbox use together.

The keeper measures them from inside the walls. It only looks at files that the code has created.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Iterator
from typing import Any

_SHORTEST, _LONGEST = 0.1, 0.5
_DISK_SECONDS = 1.0
_FILES_BETWEEN = 256  # looks at the clock, since memory is not left alone while files are counted
_DISK_SHARE = 20  # looking at the files takes at most this part of the time
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


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

    def pause(self) -> int | None:
        """Return the milliseconds until the next look, or None for never."""
        return int(1000 * self._seconds) if self._memory else None

    def breach(self) -> str:
        """Return which limit is exceeded: "memory", "disk" or "files"; empty if none is."""
        if not self._memory:
            return ""
        if self._memory_used() > self._memory:
            return "memory"
        return self._disk_breach()

    def _memory_used(self) -> int:
        """Return the memory in use. Far below the limit, the result may be too high."""
        folders = sum(map(_size_of_file_system, self._in_memory))
        processes = _processes()
        used = folders + sum(processes.values())
        # Look less often while nothing changes.
        self._seconds = _SHORTEST if used != self._used else min(2 * self._seconds, _LONGEST)
        self._used = used
        if used > self._memory:  # shared memory was counted once for each process
            used = folders + sum(_proportional(*each) for each in processes.items())
        return used

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


def _processes() -> dict[str, int]:
    """Return the memory of each process, with all that it shares, by its folder in /proc: that of
    another thread if its first one has ended, since its own then shows neither memory nor files."""
    processes = {}
    for process in filter(str.isdigit, _names("/proc")):
        for folder in _folders_of(f"/proc/{process}"):
            if used := _fields(folder, "status", "VmRSS", "VmSwap", "VmPTE"):
                processes[folder] = used
                break
    return processes


def _folders_of(process: str) -> Iterator[str]:
    yield process
    yield from (f"{process}/task/{thread}" for thread in _names(f"{process}/task"))


def _names(folder: str) -> list[str]:
    with contextlib.suppress(OSError):
        return os.listdir(folder)
    return []


def _proportional(process: str, used: int) -> int:
    """Return the memory of a process with its share of shared memory, or all of it if the share is
    unknown."""
    shares = _fields(process, "smaps_rollup", "Pss", "SwapPss")
    return shares + _fields(process, "status", "VmPTE") if shares else used


def _fields(process: str, name: str, *fields: str) -> int:
    """Return the sum, in bytes, of fields in a file about a process; 0 if it has none."""
    with (
        contextlib.suppress(OSError, ValueError),
        open(f"{process}/{name}", errors="replace") as file,
    ):
        lines = (line.partition(":") for line in file)
        return sum(int(value.split()[0]) << 10 for field, _, value in lines if field in fields)
    return 0


def _size_of_file_system(folder: str) -> int:
    with contextlib.suppress(OSError):
        status = os.statvfs(folder)
        return (status.f_blocks - status.f_bfree) * status.f_frsize
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
    for process in _processes():
        for number in _names(f"{process}/fd"):
            with contextlib.suppress(OSError):
                status = os.stat(f"{process}/fd/{number}")
                if status.st_nlink == 0 and status.st_dev in devices:
                    deleted[status.st_ino] = status
    return list(deleted.values())
