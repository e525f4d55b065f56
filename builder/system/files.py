"""Write files so that a crash leaves the old file or the new one, and lock and remove them.

The only owner of filelock and platformdirs.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from builder.errors import StorageError, from_os_error
from builder.system import guard

_CHECK_SECONDS = 0.5


def cache_folder() -> Path:
    """Return the cache, which may be deleted at any time: `TEMPLATE_BUILDER_CACHE_DIR`, else the
    user's. Raises `StorageError` for a user without a home folder, as in some containers."""
    if named := os.environ.get("TEMPLATE_BUILDER_CACHE_DIR"):
        return Path(named).absolute()
    import platformdirs

    with contextlib.suppress(RuntimeError):
        folder = platformdirs.user_cache_path("template-builder")
        if folder.is_absolute():  # older versions of platformdirs keep the `~`
            return folder
    raise StorageError(
        "this user has no home folder to keep environments in",
        hint="set HOME, or TEMPLATE_BUILDER_CACHE_DIR to a folder for the environments",
    )


def atomic_write(
    path: Path, content: bytes, *, mode: int | None = None, durable: bool = True
) -> os.stat_result:
    """Replace `path` with `content` in one step, and return the status of the new file.

    Without a `mode`, a replaced file keeps its owner, group, mode and access list as far as the
    system permits, and a new one follows the umask. Unless it is `durable`, a power loss may undo
    it. Parent folders are created. Raises `StorageError`, and then leaves `path` as it was.
    """
    doing = f"writing `{path}`"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replaced = _status(path) if mode is None else None
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        # Private until its mode is known.
        fresh = mode is None and replaced is None
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o666 if fresh else 0o600)
    except OSError as error:
        raise from_os_error(error, doing) from error
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            if mode is not None:
                os.fchmod(descriptor, mode)
            elif replaced:
                _keep_access(descriptor, path, replaced)
            if durable:
                os.fsync(descriptor)
            written = os.fstat(descriptor)
        os.replace(temporary, path)
        if durable:
            _sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise from_os_error(error, doing) from error
        raise
    return written


def _status(path: Path) -> os.stat_result | None:
    """Return the status of a regular file; None for anything else."""
    with contextlib.suppress(FileNotFoundError):
        status = path.lstat()
        return status if stat.S_ISREG(status.st_mode) else None
    return None


def _keep_access(descriptor: int, path: Path, replaced: os.stat_result) -> None:
    """Give the open file the owner, group, mode and access list of the file that it replaces."""
    mode = stat.S_IMODE(replaced.st_mode)
    for owner, group in ((replaced.st_uid, -1), (-1, replaced.st_gid)):
        with contextlib.suppress(OSError):
            os.fchown(descriptor, owner, group)
    if os.fstat(descriptor).st_gid != replaced.st_gid:
        # Its new group gets no more rights than everyone has.
        os.fchmod(descriptor, mode & ~0o070 | (mode & 0o007) << 3)
        return
    os.fchmod(descriptor, mode)
    if sys.platform != "linux":
        return
    kept, inherited = (set(_attributes(file)) for file in (path, descriptor))
    for name in inherited - kept:  # a folder may give new files an access list
        with contextlib.suppress(OSError):
            os.removexattr(descriptor, name)
    for name in kept:
        with contextlib.suppress(OSError):
            os.setxattr(descriptor, name, os.getxattr(path, name))


def _attributes(file: int | Path) -> list[str]:
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # not every file system has them
            return os.listxattr(file)
    return []


def ignored(folder: Path) -> Path:
    """Create a folder that git ignores, and return it. Raises `StorageError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise from_os_error(error, f"making `{folder}`") from error
    rules = folder / ".gitignore"
    if not rules.exists():
        atomic_write(rules, b"# Made by template-builder: nothing in here is to be committed.\n*\n")
    return folder


def _sync_folder(folder: Path) -> None:
    """Write the new name to disk: otherwise a power loss may bring the old file back."""
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

    If it is held already, raises `BlockingIOError` without `wait`; otherwise calls `waiting` once,
    and waits, calling `check` regularly, which may raise. The lock of a dead process is released.
    """
    import filelock

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not a singleton per path: two threads of one process must exclude each other too.
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


def is_locked(path: Path) -> bool:
    """Return whether a file or folder is locked (flock). Follows no link. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def remove_tree(path: Path) -> None:
    """Remove a folder and everything in it as far as possible, including read-only entries, if it
    exists.

    A symbolic link is removed, not its target. Permissions of files are not changed: they may have
    other names elsewhere.
    """
    if path.is_symlink():
        path.unlink()
    else:
        guard.remove_folder(str(path))
