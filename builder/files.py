"""Writing to disk so that a crash at any moment leaves the old file or the new one, never a half.

The only owner of filelock and platformdirs. It knows nothing of what the files mean.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import platformdirs

from builder.errors import from_os_error

__all__ = ["atomic_write", "cache_folder", "exclusive", "remove_tree"]

_CHECK_SECONDS = 0.5


def cache_folder() -> Path:
    """What may be deleted at any time: `TEMPLATE_BUILDER_CACHE_DIR`, else the user's cache."""
    named = os.environ.get("TEMPLATE_BUILDER_CACHE_DIR")
    return Path(named).absolute() if named else platformdirs.user_cache_path("template-builder")


def atomic_write(path: Path, content: bytes, *, mode: int = 0o644, durable: bool = True) -> None:
    """Replace `path` by `content` in one step: temporary file beside it, fsync, rename.

    What is not `durable` is not waited for on its way to the disk: a power loss may undo it. Parent
    folders are made. Raises `StorageError`; then `path` is as it was.
    """
    doing = f"writing `{path}`"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise from_os_error(error, doing) from error
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
        if durable:
            _sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise from_os_error(error, doing) from error
        raise


def _sync_folder(folder: Path) -> None:
    """Have the new name itself on disk: without, a power loss may bring the old file back."""
    with contextlib.suppress(OSError):  # not every file system can
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def exclusive(
    path: Path,
    *,
    waiting: Callable[[], None] | None = None,
    check: Callable[[], None] | None = None,
    wait: bool = True,
) -> Iterator[None]:
    """Hold the lock file `path`, against threads and other processes, for the `with` block.

    When somebody else holds it: without `wait`, raises `BlockingIOError`; else `waiting` is called
    once, and then it waits, calling `check` now and then, which ends the waiting when it raises.
    The operating system frees the lock of a process that dies.
    """
    import filelock

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not a singleton per path: two threads of one process must exclude each other, too.
        lock = filelock.FileLock(path, thread_local=False)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            if not wait:
                raise BlockingIOError(f"{path} is held") from None
            if waiting:
                waiting()
            _acquire(lock, check)
    except BlockingIOError:
        raise
    except OSError as error:
        raise from_os_error(error, f"locking {path.name}") from error
    try:
        yield
    finally:
        lock.release()


def _acquire(lock: Any, check: Callable[[], None] | None) -> None:
    import filelock

    while True:
        try:
            lock.acquire(timeout=_CHECK_SECONDS)
        except filelock.Timeout:
            if check:
                check()
        else:
            return


def remove_tree(path: Path) -> None:
    """Remove a folder and all in it, read-only entries included; absent is fine.

    Of a symbolic link, the link goes, and nothing that it leads to is touched.
    """
    if path.is_symlink():
        path.unlink()
        return

    def retry(function: Callable[..., object], name: str, _info: object) -> None:
        with contextlib.suppress(OSError):
            for entry in (os.path.dirname(name), name):
                if Path(entry).is_relative_to(path) and not os.path.islink(entry):
                    os.chmod(entry, 0o700)
            function(name)

    shutil.rmtree(path, onerror=retry)
