"""A blocking interface to a session."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from builder.errors import InterruptedRunError
from builder.sandbox.commands import CommandResult
from builder.sandbox.execution import Execution
from builder.sandbox.session import Session
from builder.system.processes import when_stopped

_T = TypeVar("_T")
SessionT = TypeVar("SessionT", bound=Session)


class BlockingSession(Generic[SessionT]):
    """Drives a session with its own event loop. Use it from one thread; `close` it when done.

    Interrupting the program cancels the running call.
    """

    def __init__(self, opening: Callable[[], Coroutine[Any, Any, SessionT]]) -> None:
        """Open the session. Raises what `opening` raises, and `InterruptedRunError`."""
        self._closed = False
        self._runner = asyncio.Runner()
        try:
            self.session = self.wait_for(opening)
        except BaseException:
            self._runner.close()
            raise
        self.timings = self.session.timings

    def run(self, code: str, *, timeout: float) -> Execution:
        """Run Python code and keep all of its output. Raises what `Session.run` raises."""
        return self.wait_for(
            lambda: self.session.run(
                code, seconds=timeout, language="python", variables={}, limit=None
            )
        )

    def command(self, text: str, *, timeout: float) -> CommandResult:
        """Run a command in a shell. Raises what `Session.command` raises."""
        return self.wait_for(lambda: self.session.command(text, seconds=timeout))

    def wait_for(self, call: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Return the result of a call on the session. Raises `InterruptedRunError`."""
        try:
            return self._runner.run(_cancelled_when_stopped(call))
        except asyncio.CancelledError:
            raise InterruptedRunError("interrupted") from None

    def close(self) -> None:
        """End the session, even after an interrupt. Closing twice is fine."""
        if self._closed:
            return
        self._closed = True
        try:
            self._runner.run(self.session.close())
        finally:
            self._runner.close()


async def _cancelled_when_stopped(call: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def cancel() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(task.cancel)

    with when_stopped(cancel):
        return await call()
