"""Interrupts: SIGINT ends the code of the request that it was sent for, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from types import FrameType
from typing import Any, Optional

from IPython.core.interactiveshell import InteractiveShell

# Whether code runs, and the task that it runs in if it is asynchronous.
_State = tuple[bool, Optional["asyncio.Task[Any]"]]
_NOTHING_RUNS: _State = (False, None)
_OURS = (__name__, f"{__package__}.python")
_KERNEL_MODULES = ("ipykernel", "tornado", "zmq")


class Interrupts:
    """Passes SIGINT on to running code.

    To end an execution, the application writes the ID of its request, and a number, to a file
    beside the connection file, then sends the signal: a late one does not end the next execution. A
    signal without new content there comes from the code itself.
    """

    def __init__(self, connection: str) -> None:
        self._file = os.path.join(os.path.dirname(connection), "interrupt")
        self._request = self._handled = ""
        self._pending = False
        self._state = _NOTHING_RUNS

    def begin(self, request: str) -> None:
        """Accept signals for a request from now on."""
        self._request, self._pending, self._state = request, False, _NOTHING_RUNS
        signal.signal(signal.SIGINT, self._handle)
        requested = self._requested()
        if _id_in(requested) == request:  # the signal came before the handler was set
            self._handled, self._pending = requested, True

    def end(self) -> None:
        """Ignore signals again."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def pass_on(self, *, asynchronous: bool) -> _State:
        """Pass signals on to code that starts now; return the state to `restore` at its end."""
        before = self._state
        task = asyncio.current_task() if asynchronous else None
        self._state = (True, task)
        return before

    def hold_back(self) -> _State:
        """Hold signals back; return the state to `restore`."""
        before, self._state = self._state, _NOTHING_RUNS
        return before

    def restore(self, state: _State) -> None:
        """Return to the state before `pass_on` or `hold_back`."""
        self._state = state

    def take_pending(self) -> bool:
        """Return whether a signal came while no code ran, and forget it."""
        pending, self._pending = self._pending, False
        return pending

    def _requested(self) -> str:
        """Return the content of the file, empty if that was handled."""
        with contextlib.suppress(OSError, ValueError), open(self._file, encoding="ascii") as file:
            content = file.read()
            if content != self._handled:
                return content
        return ""

    def _handle(self, _signal: int, frame: FrameType | None) -> None:
        if requested := self._requested():
            self._handled = requested
            if _id_in(requested) != self._request:
                return
        state = self._state
        running, task = state
        if not running or (task is None and _between(frame)):
            self._pending = True
        elif task is None:
            raise KeyboardInterrupt
        else:
            loop = task.get_loop()
            if asyncio.current_task(loop) is task:
                if _inside_code(frame):
                    raise KeyboardInterrupt
                # The runner is resumed each time before the code: it ends at the code's next
                # `await`, unless it has ended by then.
                self._pending = True
                loop.call_soon_threadsafe(self._cancel, state)
                return
            # A waiting loop does not notice callbacks added by its own thread.
            loop.call_soon_threadsafe(task.cancel)
            if _belongs_to_code(frame):
                raise asyncio.CancelledError  # anything else would end the event loop

    def _cancel(self, state: _State) -> None:
        """End waiting asynchronous code, unless it has ended since this state."""
        if self._state is state and state[1] and self.take_pending():
            state[1].cancel()


def _id_in(content: str) -> str:
    return content.partition(" ")[0]


def _inside_code(frame: FrameType | None) -> bool:
    """Return whether the code itself runs in this frame, not what runs or resumes it."""
    if _between(frame):
        return False
    while frame := frame and frame.f_back:
        if frame.f_code is InteractiveShell.run_code.__code__:
            return True
    return False


def _between(frame: FrameType | None) -> bool:
    """Return whether the code has not started yet, or has ended."""
    return frame is not None and (
        frame.f_globals.get("__name__") in _OURS
        or frame.f_code is InteractiveShell.run_code.__code__
    )


def _belongs_to_code(frame: FrameType | None) -> bool:
    """Return whether the event loop runs a callback of the code in this frame, which may block it.
    What asyncio itself does ends soon, and must not be interrupted."""
    called = frame
    while frame:
        module = str(frame.f_globals.get("__name__"))
        if (module, frame.f_code.co_name) == ("asyncio.events", "_run"):
            return frame is not called or not _of_asyncio(frame.f_locals.get("self"))
        package = module.partition(".")[0]
        if package in _KERNEL_MODULES or module == "asyncio.base_events":
            return False
        if package == "asyncio" and frame is called:
            return False
        frame = frame.f_back
    return False


def _of_asyncio(handle: Any) -> bool:
    """Return whether a handle of the event loop calls asyncio, such as a step of a task."""
    callback = getattr(handle, "_callback", None)
    return (
        isinstance(getattr(callback, "__self__", None), asyncio.Future)
        or type(callback).__module__.startswith("_asyncio")
        or type(callback).__name__.startswith("Task")
        or str(getattr(callback, "__module__", "")).partition(".")[0] == "asyncio"
    )
