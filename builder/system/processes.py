"""The child processes of this program: none outlives it.

Every child runs in its own session, so Ctrl-C reaches only this program, which then stops its
children and cleans up after them.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from builder.errors import InterruptedRunError
from builder.system import guard

_running: set[subprocess.Popen[Any]] = set()
_callbacks: list[Callable[[], None]] = []
_lock = threading.Lock()
_stopped = threading.Event()
_END_SECONDS = 10.0


def let_go(descriptors: Iterable[int]) -> None:
    """Point descriptors at nothing, where others still hold their numbers."""
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for descriptor in descriptors:
        os.dup2(nothing, descriptor, inheritable=False)
    os.close(nothing)


def _after_fork() -> None:
    """In a forked process, forget the children, which are not its own, and release their pipes."""
    streams = [s for p in _running for s in (p.stdin, p.stdout, p.stderr) if s and not s.closed]
    let_go(stream.fileno() for stream in streams)
    _running.clear()
    _lock.release()


os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_after_fork)


@contextlib.contextmanager
def started(
    command: Sequence[str],
    *,
    folder: Path | None = None,
    scratch: Path | None = None,
    **options: Any,
) -> Iterator[subprocess.Popen[Any]]:
    """Run a child under a guard for the `with` block, and yield the guard's process.

    `options` are those of `Popen`, except standard input, which is the guard's. See
    `builder.system.guard` for `folder`. `scratch` is another folder, removed when the child ends,
    even if this program is killed. At the end of the block or of this program, the child and all
    its descendants are killed. Raises `InterruptedRunError` if this program is stopping.
    """
    with _lock:
        check_not_stopped()
        process = subprocess.Popen(
            [
                *(sys.executable, "-I", "-S", guard.__file__),
                *(str(folder or "-"), str(scratch or "-")),
                *command,
            ],
            stdin=subprocess.PIPE,
            process_group=0,
            **options,
        )
        _running.add(process)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream:
                with contextlib.suppress(OSError):
                    stream.close()
        with _lock:
            _running.discard(process)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """On Ctrl-C in the `with` block, stop every child, so that threads that wait for them end."""
    _stopped.clear()
    try:
        yield
    except BaseException:
        with _lock:
            _stopped.set()
            for process in _running:
                process.terminate()
            callbacks = list(_callbacks)
        for callback in callbacks:
            callback()
        raise


@contextlib.contextmanager
def when_stopped(callback: Callable[[], None]) -> Iterator[None]:
    """Call `callback`, from another thread, if this program is interrupted in the `with` block, to
    end what the block waits for. It must not raise.

    Raises `InterruptedRunError` if this program was interrupted already."""
    with _lock:
        check_not_stopped()
        _callbacks.append(callback)
    try:
        yield
    finally:
        with _lock:
            _callbacks.remove(callback)


def stopped() -> bool:
    """Return whether this program was interrupted, and its children stopped."""
    return _stopped.is_set()


def check_not_stopped() -> None:
    """Raise `InterruptedRunError` if this program is stopping."""
    if _stopped.is_set():
        raise InterruptedRunError("interrupted")


def pause(seconds: float) -> None:
    """Sleep. Raises `InterruptedRunError` as soon as this program is interrupted."""
    _stopped.wait(seconds)
    check_not_stopped()
