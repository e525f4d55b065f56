"""The child processes of this program, so that none outlives it.

Every child runs in a process group of its own: Ctrl-C in a terminal reaches this program alone,
which then ends its children in order and cleans up after them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

from builder.errors import InterruptedRunError

__all__ = ["interruptible", "started", "stopped"]

_running: set[subprocess.Popen[Any]] = set()
_lock = threading.Lock()
_stopped = threading.Event()


@contextlib.contextmanager
def started(command: list[str], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """A child for the time of the `with` block, as by `Popen`; killed if it still runs at the end.

    Raises `InterruptedRunError` when this program is on its way out already.
    """
    with _lock:
        if _stopped.is_set():
            raise InterruptedRunError("interrupted")
        process = subprocess.Popen(command, process_group=0, **options)
        _running.add(process)
    try:
        yield process
    finally:
        if process.poll() is None:
            _signal(process, signal.SIGKILL)
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
                _signal(process, signal.SIGTERM)
        raise


def _signal(process: subprocess.Popen[Any], number: signal.Signals) -> None:
    """Send a signal to a child and to what it has started in its group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def stopped() -> bool:
    """Whether the children were ended because this program was interrupted."""
    return _stopped.is_set()
