"""Writing to disk so that a crash at any moment leaves the old file or the new one, never a half.

The only owner of filelock and platformdirs. It knows nothing of what the files mean.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from builder.errors import StorageError, from_os_error

_CHECK_SECONDS = 0.5


def cache_folder() -> Path:
    """What may be deleted at any time: `TEMPLATE_BUILDER_CACHE_DIR`, else the user's cache.

    Raises `StorageError` for a user without a home folder, as in a container that runs under any
    user ID.
    """
    if named := os.environ.get("TEMPLATE_BUILDER_CACHE_DIR"):
        return Path(named).absolute()
    import platformdirs  # for those alone that it decides for

    with contextlib.suppress(RuntimeError):
        folder = platformdirs.user_cache_path("template-builder")
        if folder.is_absolute():  # older versions of platformdirs leave the `~` in it
            return folder
    raise StorageError(
        "this user has no home folder in which environments could be kept",
        hint="set HOME to a folder of this user, or TEMPLATE_BUILDER_CACHE_DIR to one for the"
        " environments alone",
    )


def atomic_write(
    path: Path, content: bytes, *, mode: int | None = None, durable: bool = True
) -> os.stat_result:
    """Replace `path` by `content` in one step: temporary file beside it, fsync, rename.

    Returns the status of the file that was written.

    Without a `mode`, a file that is replaced keeps its owner, group, mode and access list, as far
    as the system permits, and a new one gets what the umask leaves. What is not `durable` is not
    waited for on its way to the disk: a power loss may undo it. Parent folders are made. Raises
    `StorageError`; then `path` is as it was.
    """
    doing = f"writing `{path}`"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replaced = _status(path) if mode is None else None
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        # Open to nobody else until its mode is known.
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
    """The status of a regular file; None where there is none, or something else."""
    with contextlib.suppress(FileNotFoundError):
        status = path.lstat()
        return status if stat.S_ISREG(status.st_mode) else None
    return None


def _keep_access(descriptor: int, path: Path, replaced: os.stat_result) -> None:
    """Give the open file the owner, group, mode and access list of the one that it replaces."""
    mode = stat.S_IMODE(replaced.st_mode)
    for owner, group in ((replaced.st_uid, -1), (-1, replaced.st_gid)):
        with contextlib.suppress(OSError):
            os.fchown(descriptor, owner, group)
    if os.fstat(descriptor).st_gid != replaced.st_gid:
        # Its new group gets no more than everybody has.
        os.fchmod(descriptor, mode & ~0o070 | (mode & 0o007) << 3)
        return
    os.fchmod(descriptor, mode)
    if sys.platform != "linux":
        return
    kept, inherited = (set(_attributes(file)) for file in (path, descriptor))
    for name in inherited - kept:  # a folder may give its new files an access list
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
    """Make a folder that git ignores, as the caches of other tools do, and return it. Raises
    `StorageError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise from_os_error(error, f"making `{folder}`") from error
    rules = folder / ".gitignore"
    if not rules.exists():
        atomic_write(rules, b"# Made by template-builder: nothing in here is to be committed.\n*\n")
    return folder


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


def is_locked(path: Path) -> bool:
    """Whether somebody holds a lock (flock) on a file or a folder; no link is followed. Raises
    `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def remove_tree(path: Path) -> None:
    """Remove a folder and all in it, read-only entries included; absent is fine.

    Of a symbolic link, the link goes, and nothing that it leads to is touched; nor are the
    permissions of files, which may have other names elsewhere.
    """
    if path.is_symlink():
        path.unlink()
        return

    def retry(function: Callable[..., object], name: str, _info: object) -> None:
        with contextlib.suppress(OSError):
            for entry in (os.path.dirname(name), name):
                inside = Path(entry).is_relative_to(path)
                if inside and os.path.isdir(entry) and not os.path.islink(entry):
                    os.chmod(entry, 0o700)
            function(name)

    shutil.rmtree(path, onerror=retry)
