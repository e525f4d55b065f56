"""Limits of this process and its user that a sandbox may reach, and the errors for them.

They are checked before a sandbox is opened: libzmq aborts the process if it gets no descriptor or
thread.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import threading
from collections.abc import Iterator

from builder.errors import SandboxError

# What each sandbox uses in this process, as measured.
_DESCRIPTORS = 19
_SPARE_DESCRIPTORS = 6
_LEAST_DESCRIPTORS = 100  # a kernel keeps its home open as number 99
_THREADS = 32  # with those of the kernel, which counts for the same user
_BYTES = 32 << 20
_SPARE_BYTES = 64 << 20
_SIGNS = {
    "descriptors": re.compile(r"Too many open files"),
    "threads": re.compile(
        r"can't start new thread|Resource temporarily unavailable|pthread_create"
    ),
    "memory": re.compile(r"Cannot allocate memory|MemoryError|bad_alloc"),
}
_pending = 0
_lock = threading.Lock()


@contextlib.contextmanager
def room() -> Iterator[None]:
    """Reserve room for one more sandbox while it is opened. Raises `SandboxError` if there is none,
    or if a limit is reached meanwhile."""
    global _pending  # noqa: PLW0603 - one count for all threads
    with _lock:
        _check(_pending + 1)
        _pending += 1
    try:
        with named():
            yield
    finally:
        with _lock:
            _pending -= 1


@contextlib.contextmanager
def named() -> Iterator[None]:
    """Raise errors that a limit caused as a `SandboxError` that names the limit."""
    try:
        yield
    except Exception as error:
        if worded := limit_error(error):
            raise worded from error
        raise


def limit_error(error: BaseException | str) -> SandboxError | None:
    """Return the error for a failure that a limit caused, by its text or that of its causes."""
    texts = [error] if isinstance(error, str) else []
    while isinstance(error, BaseException):
        if isinstance(error, SandboxError) and error.hint and "`ulimit" in error.hint:
            return error
        texts.append(f"{type(error).__name__}: {error}")
        error = error.__cause__ or error.__context__ or ""
    for kind, sign in _SIGNS.items():
        if any(map(sign.search, texts)):
            return _error(kind)
    return None


def _check(sandboxes: int) -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit != resource.RLIM_INFINITY and (
        limit < _LEAST_DESCRIPTORS
        or not _can_open(sandboxes * _DESCRIPTORS + _SPARE_DESCRIPTORS, limit)
    ):
        raise _error("descriptors")
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and (
        _address_space() + sandboxes * _BYTES + _SPARE_BYTES > limit
    ):
        raise _error("memory")
    limit = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if limit != resource.RLIM_INFINITY and _threads_of_machine() + sandboxes * _THREADS > limit:
        _try_threads()


def _can_open(count: int, limit: int) -> bool:
    try:
        # The listing itself uses a descriptor.
        return len(os.listdir("/dev/fd")) - 1 + count <= limit
    except OSError:
        return False


def _address_space() -> int:
    import psutil

    with contextlib.suppress(psutil.Error):
        return int(psutil.Process().memory_info().vms)
    return 0


def _threads_of_machine() -> float:
    """Return how many threads all users have; infinity if it is unknown."""
    with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/loadavg") as file:
        return int(file.read().split()[3].partition("/")[2])
    return float("inf")


def _try_threads() -> None:
    over = threading.Event()
    threads = []
    try:
        for _ in range(_THREADS):
            thread = threading.Thread(target=over.wait)
            thread.start()
            threads.append(thread)
    except RuntimeError as error:
        raise _error("threads") from error
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _error(kind: str) -> SandboxError:
    if kind == "threads" and resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        kind = "memory"  # for the stack of a thread
    text, option, number = {
        "descriptors": ("open files", "n", resource.RLIMIT_NOFILE),
        "threads": ("processes and threads", "u", resource.RLIMIT_NPROC),
        "memory": ("memory", "v", resource.RLIMIT_AS),
    }[kind]
    limit = resource.getrlimit(number)[0]
    shown = "not set" if limit == resource.RLIM_INFINITY else str(limit)
    if kind == "memory" and limit != resource.RLIM_INFINITY:
        shown = f"{limit >> 10} KiB"
    return SandboxError(
        f"there is no room for another sandbox: the limit of {text} is reached (`ulimit -{option}`:"
        f" {shown})",
        hint=f"raise it (`ulimit -{option}`, or what your container or service manager sets), or"
        " have fewer sandboxes open at once",
    )


def memory_kills() -> int | None:
    """Return how many processes this machine has killed for lack of memory; None where it does not
    say."""
    with contextlib.suppress(OSError, ValueError), open("/proc/vmstat", encoding="ascii") as file:
        return next((int(line.split()[1]) for line in file if line.startswith("oom_kill ")), None)
    return None
