"""Wait for the next kernel in a zygote, which ends with its parent.

A zygote that outlives programs ends when it is idle, and removes folders that killed programs
leave. A program locks the folder of each sandbox that it uses: a folder without a lock is
abandoned.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
from collections.abc import Iterator

SANDBOX = "s-"  # prefix of a sandbox's folder


class Waiting:
    """Handles SIGCHLD, too."""

    def __init__(self, folder: str, idle: float | None) -> None:
        """`folder` holds the folders of sandboxes. `idle` is the time without kernels, in seconds,
        after which the zygote ends; without it, it ends with its parent only."""
        self._folder, self._idle = folder, idle
        # Behind the walls of root, the parent's end sends no signal to its child.
        self._parent = os.pidfd_open(os.getppid())
        self._descriptors = [self._parent]
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        if idle:
            self._woken, waker = os.pipe()
            for descriptor in (self._woken, waker):
                os.set_blocking(descriptor, False)
            self._descriptors += [self._woken, waker]
            signal.set_wakeup_fd(waker)
            signal.signal(signal.SIGCHLD, lambda *_: None)

    def close(self) -> None:
        """Close the descriptors in a process that was forked from the zygote."""
        signal.set_wakeup_fd(-1)
        for descriptor in self._descriptors:
            os.close(descriptor)

    def wait(self, listener: socket.socket) -> bool:
        """Wait for a connection; return False if the zygote must end."""
        poll = select.poll()
        for descriptor in (listener.fileno(), *self._descriptors[:2]):
            poll.register(descriptor, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll(self._idle * 1000 if self._idle else None)}
            if listener.fileno() in ready:
                return True
            if self._parent in ready or not (ready or _has_children()):
                return False
            with contextlib.suppress(BlockingIOError):
                os.read(self._woken, 1024)
            if _reaped() and (paths := list(self._abandoned())):
                os.posix_spawn("/bin/rm", ["rm", "-rf", "--", *paths], {})

    def _abandoned(self) -> Iterator[str]:
        for entry in os.scandir(self._folder):
            if entry.name.startswith(SANDBOX):
                with contextlib.suppress(OSError):
                    descriptor = os.open(entry.path, os.O_RDONLY | os.O_CLOEXEC)
                    try:
                        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        yield entry.path
                    finally:
                        os.close(descriptor)


def _has_children() -> bool:
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return False
    return True


def _reaped() -> bool:
    """Reap processes that have ended; return whether there were any."""
    reaped = False
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            reaped = True
    return reaped
