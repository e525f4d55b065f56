"""Temporary folders that a later run removes if the program that created them was killed.

Each is locked by its process. It is created under a hidden name and renamed once it is locked, so
that another process never sees it unlocked.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import tempfile
import time
from pathlib import Path

from builder.system.files import is_locked, remove_tree

_PREFIX = "template-builder-"
_UNNAMED_SECONDS = 3600.0
_LONGEST_FOLDER = 54


class Scratch:
    """A private temporary folder at `path`, until `remove` is called."""

    def __init__(self, parent: str | None = None, prefix: str = _PREFIX) -> None:
        """Create it in `parent`, by default where temporary files go. Raises `OSError`."""
        _remove_abandoned(parent or tempfile.gettempdir(), prefix)
        unnamed = Path(tempfile.mkdtemp(prefix=f".{prefix}", dir=parent))
        self._lock: int | None = None
        try:
            self._lock = os.open(unnamed, os.O_RDONLY | os.O_CLOEXEC)
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(self._lock, fcntl.LOCK_SH)
            self.path = unnamed.with_name(unnamed.name[1:])
            unnamed.rename(self.path)
        except BaseException:
            self._release()
            remove_tree(unnamed)
            raise

    def remove(self) -> None:
        """Remove it as far as possible. May be called twice."""
        with contextlib.suppress(OSError):
            remove_tree(self.path)
        self._release()

    def _release(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)


@functools.cache
def _remove_abandoned(parent: str, prefix: str) -> None:
    """Remove the folders of programs that were killed, once per process."""
    for path in Path(parent).glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            if path.lstat().st_uid == os.getuid() and not is_locked(path):
                remove_tree(path)
    for path in Path(parent).glob(f".{prefix}*"):
        with contextlib.suppress(OSError):
            status = path.lstat()
            if status.st_uid == os.getuid() and time.time() - status.st_mtime > _UNNAMED_SECONDS:
                remove_tree(path)


def short_folder() -> str:
    """Return a folder for temporary folders with a short path: the path of a Unix socket has at
    most about 100 characters."""
    usual = tempfile.gettempdir()
    return usual if len(usual) <= _LONGEST_FOLDER else "/tmp"  # noqa: S108 - mkdtemp makes it safe
