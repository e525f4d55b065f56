"""The child processes of this program, so that none outlives it.

Every child runs in a session of its own: Ctrl-C in a terminal reaches this program alone, which
then ends its children in order and cleans up after them.
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
    """Give up descriptors of which others keep the numbers: they lead to nothing then."""
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for descriptor in descriptors:
        os.dup2(nothing, descriptor, inheritable=False)
    os.close(nothing)


def _after_fork() -> None:
    """In a process that was forked from this one: the children are not its own, and it must not
    hold the pipes whose end is theirs."""
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
    """A child for the time of the `with` block, under a guard; what is yielded is the guard.

    `options` are those of `Popen`, but for standard input, which is the guard's. See
    `builder.system.guard` for what `folder` does. `scratch` is another folder, which is gone when
    the child has ended, even if this program was killed. At the end of the block, or of this
    program in whatever way, the child and all that it has started are killed. Raises
    `InterruptedRunError` when this program is on its way out already.
    """
    with _lock:
        if _stopped.is_set():
            raise InterruptedRunError("interrupted")
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
    """Ctrl-C inside the `with` block ends every child, so that the threads waiting for them end."""
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
    """Have `callback` called, from another thread, when this program is interrupted inside the
    `with` block: it ends what the block waits for. It must not raise.

    Raises `InterruptedRunError` when that has happened already."""
    with _lock:
        if _stopped.is_set():
            raise InterruptedRunError("interrupted")
        _callbacks.append(callback)
    try:
        yield
    finally:
        with _lock:
            _callbacks.remove(callback)


def stopped() -> bool:
    """Whether the children were ended because this program was interrupted."""
    return _stopped.is_set()


def check_not_stopped() -> None:
    """Raises `InterruptedRunError` when this program is on its way out."""
    if _stopped.is_set():
        raise InterruptedRunError("interrupted")


def pause(seconds: float) -> None:
    """Sleep, but not through an interrupt. Raises `InterruptedRunError`."""
    if _stopped.wait(seconds):
        raise InterruptedRunError("interrupted")
