"""Seal finished environments: make them read-only, and list files that were modified anyway.

The list holds the size and time of each file: reading gigabytes would take too long.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from builder.system.documents import parse_json
from builder.system.files import atomic_write
from builder.targets.local.confine.walls import FILES

_LIST = "files.json"
_WRITE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
# How a script of uv finds its interpreter: beside the script itself, in the environment, or beside
# the name by which it was called, in the sandbox's own virtual environment.
_BESIDE_SCRIPT = b'"$(dirname -- "$(realpath -- "$0")")"'
_BESIDE_NAME = b'"$(dirname -- "$0")"'


def seal(folder: Path) -> int:
    """List the files of an environment and make them read-only; return their total size in bytes.
    Raises `OSError`, `StorageError`."""
    _run_scripts_by_their_callers(folder / "bin")
    listed = dict(_files(folder, visit=_make_read_only))
    atomic_write(folder / _LIST, json.dumps(listed, separators=(",", ":")).encode())
    return sum(size for size, _ in listed.values())


def changes(folder: Path) -> list[str]:
    """Describe what has changed since the environment was sealed; nothing if it has no list.
    Raises `OSError`."""
    try:
        listed = parse_json((folder / _LIST).read_bytes())
    except FileNotFoundError:
        return []
    except ValueError:
        return [f"{_LIST} cannot be read"]
    now = dict(_files(folder))
    return [
        *(f"{path} is gone" for path in listed if path not in now),
        *(f"{path} was added" for path in now if path not in listed),
        *(f"{path} was changed" for path in now if now[path] != listed.get(path, now[path])),
    ]


def _contents(folder: Path) -> list[Path]:
    """Return what sandboxes use of an environment, without its metadata."""
    return [
        path
        for path in folder.iterdir()
        if path.name == "pyvenv.cfg" or (path.is_dir() and not path.is_symlink())
    ]


def _files(
    folder: Path, *, visit: Callable[[str, os.stat_result], None] | None = None
) -> Iterator[tuple[str, list[int]]]:
    """Yield the path of each file, with its size and time in seconds: not every way of moving a
    folder preserves finer times. Call `visit` with each path of what sandboxes share: a copy of the
    home, which they write to, and files of the spec have the same permissions."""
    start = len(os.fspath(folder)) + 1
    for top in _contents(folder):
        look = None if top.name in ("home", FILES) else visit
        for path, status in _walk(os.fspath(top)):
            if look:
                look(path, status)
            if not stat.S_ISDIR(status.st_mode):
                yield path[start:], [status.st_size, int(status.st_mtime)]


def _walk(top: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield a file, or a folder and all in it, without following links."""
    yield top, (status := os.lstat(top))
    folders = [top] if stat.S_ISDIR(status.st_mode) else []
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                yield entry.path, entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)


def _make_read_only(path: str, status: os.stat_result) -> None:
    if status.st_mode & _WRITE and not stat.S_ISLNK(status.st_mode):
        with contextlib.suppress(PermissionError):  # linked from another user's cache
            os.chmod(path, stat.S_IMODE(status.st_mode) & ~_WRITE)


def _run_scripts_by_their_callers(folder: Path) -> None:
    """Make scripts use the interpreter of the sandbox that calls them, which also has packages of
    its own."""
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
