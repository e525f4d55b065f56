"""Environments that are finished: nothing is written to them any more, and it shows where it was.

Of each file its size and time are listed: reading it all would take too long, of gigabytes.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from builder.system.documents import parse_json
from builder.system.files import atomic_write

_LIST = "files.json"
_WRITE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
# How a script of uv finds its interpreter: beside the script itself, which is the environment's, or
# beside the name by which it was called, which is the sandbox's own.
_BESIDE_SCRIPT = b'"$(dirname -- "$(realpath -- "$0")")"'
_BESIDE_NAME = b'"$(dirname -- "$0")"'


def seal(folder: Path) -> int:
    """List the files of an environment and take away the permission to write to them; their size
    together, in bytes. Raises `OSError`, `StorageError`."""
    _run_scripts_by_their_callers(folder / "bin")
    listed = dict(_files(folder))
    atomic_write(folder / _LIST, json.dumps(listed, separators=(",", ":")).encode())
    for top in _contents(folder):
        if top.name != "home":  # it is copied with its permissions, for sandboxes to write to
            _make_read_only(top)
    return sum(size for size, _ in listed.values())


def changes(folder: Path) -> list[str]:
    """What is not as it was when the environment was sealed, in words; of one that was made before
    there were lists, nothing. Raises `OSError`."""
    try:
        listed = parse_json((folder / _LIST).read_bytes())
    except FileNotFoundError:
        return []
    except ValueError:
        return [f"{_LIST} cannot be read"]
    there = dict(_files(folder))
    return [
        *(f"{path} is gone" for path in listed if path not in there),
        *(f"{path} was added" for path in there if path not in listed),
        *(f"{path} was changed" for path in there if there[path] != listed.get(path, there[path])),
    ]


def _contents(folder: Path) -> list[Path]:
    """What sandboxes use of an environment, without what is kept about it."""
    return [
        path
        for path in folder.iterdir()
        if path.name == "pyvenv.cfg" or (path.is_dir() and not path.is_symlink())
    ]


def _files(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """The path of each file, with its size and the second in which it was written: finer times are
    not kept by every way to move a folder."""
    start = len(os.fspath(folder)) + 1
    for top in _contents(folder):
        for path, status in _walk(os.fspath(top)):
            if not stat.S_ISDIR(status.st_mode):
                yield path[start:], [status.st_size, int(status.st_mtime)]


def _walk(top: str) -> Iterator[tuple[str, os.stat_result]]:
    """A file, or a folder and all in it; links are not followed."""
    yield top, (status := os.lstat(top))
    folders = [top] if stat.S_ISDIR(status.st_mode) else []
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                yield entry.path, entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)


def _make_read_only(top: Path) -> None:
    for path, status in _walk(os.fspath(top)):
        if not stat.S_ISLNK(status.st_mode) and status.st_mode & _WRITE:
            with contextlib.suppress(PermissionError):  # linked from another user's cache
                os.chmod(path, stat.S_IMODE(status.st_mode) & ~_WRITE)


def _run_scripts_by_their_callers(folder: Path) -> None:
    """Have scripts run by the interpreter of the sandbox that calls them, which has its own
    packages, too."""
    for path in folder.iterdir():
        if path.is_symlink() or not path.is_file():
            continue
        with path.open("rb") as file:
            head = file.read(512)
            if _BESIDE_SCRIPT not in head:
                continue
            text = (head + file.read()).replace(_BESIDE_SCRIPT, _BESIDE_NAME, 1)
        mode = stat.S_IMODE(path.stat().st_mode)
        path.unlink()  # it may be linked to uv's cache
        path.write_bytes(text)
        path.chmod(mode)
