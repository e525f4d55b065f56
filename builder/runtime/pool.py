"""Sandboxes opened and warmed ahead of need.

A pool belongs to one event loop and one template, and is shared by all primitives of both; it
ends with the loop. Each sandbox serves one caller and is not reused.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Coroutine
from typing import Any

from builder.errors import TemplateError
from builder.runtime.session import end, open_session
from builder.runtime.template import Template
from builder.sandbox.session import Session
from builder.system import telemetry

_logger = logging.getLogger(__name__)
_CHECK_SECONDS = 10.0
_OPENING_AT_A_TIME = 4
_LONGEST_PAUSE_SECONDS = 30.0


class Pool:
    """Keeps `size` sessions ready; replaces those that are dead or older than `max_age` seconds."""

    def __init__(self, template: Template, *, seconds: int, size: int, max_age: float) -> None:
        """Sandboxes live for `seconds` on targets with a limit."""
        self.size = size
        self._template, self._seconds, self._max_age = template, seconds, max_age
        self._ready: deque[Session] = deque()
        self._waiting: deque[asyncio.Future[Session]] = deque()
        self._opening: set[asyncio.Task[None]] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._pause = 0.0
        self.broken: Exception | None = None
        self._wake, self._wanted = asyncio.Event(), asyncio.Event()
        self._keeper = _task_of(self._keep())
        weakref.finalize(self, _end_elsewhere, self._ready).atexit = False

    def ready(self) -> int:
        """Return how many sessions are ready."""
        return len(self._ready)

    async def take(self) -> Session:
        """Return a ready session, or wait for the next. Raises what opening one raises."""
        while self._ready:
            session = self._ready.popleft()
            self._wake.set()
            if self._good(session):
                return session
            self._end(session)
        waiter: asyncio.Future[Session] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self._wake.set()
        self._wanted.set()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and not waiter.exception():
                self._offer(waiter.result())
            raise

    def _good(self, session: Session) -> bool:
        age = time.monotonic() - session.opened_at
        return session.usable() and age < min(self._max_age, session.lifetime / 2)

    async def _keep(self) -> None:
        try:
            while True:
                self._drop_bad()
                self._open_missing()
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_CHECK_SECONDS):
                        await self._wake.wait()
                        continue
                await self._check()
        except Exception as error:
            # Nothing opens sessions any more: waiting callers must know, later ones get a new pool.
            self.broken = error
            for waiter in self._waiting:
                if not waiter.done():
                    waiter.set_exception(error)
            await self._close()
            raise
        except asyncio.CancelledError:  # the loop is ending; once it has, nothing can be awaited
            await self._close()
            raise

    def _open_missing(self) -> None:
        waiting = sum(not waiter.done() for waiter in self._waiting)
        if not waiting:
            self._wanted.clear()
        missing = self.size + waiting - len(self._ready) - len(self._opening)
        for _ in range(min(missing, _OPENING_AT_A_TIME - len(self._opening))):
            task = _task_of(self._open())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)
            task.add_done_callback(lambda _: self._wake.set())

    async def _open(self) -> None:
        if not self._waiting and self._pause:
            # A caller that comes meanwhile does not wait for an earlier failure.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause):
                    await self._wanted.wait()
        try:
            session = await open_session(self._template, seconds=self._seconds, warm=True)
        except Exception as error:
            self._pause = min(_LONGEST_PAUSE_SECONDS, 2 * self._pause or 0.5)
            if waiter := self._next_waiter():
                waiter.set_exception(error)
                return
            expected = isinstance(error, TemplateError)
            _logger.warning(
                "opening a sandbox of %s ahead of need failed: %s",
                self._template.ref,
                error,
                exc_info=None if expected else error,
            )
            return
        self._pause = 0.0
        self._offer(session)

    def _offer(self, session: Session) -> None:
        if waiter := self._next_waiter():
            waiter.set_result(session)
        elif len(self._ready) < self.size:
            self._ready.append(session)
        else:  # its caller has gone
            self._end(session)

    def _next_waiter(self) -> asyncio.Future[Session] | None:
        """Take the caller who has waited longest, of those who still wait."""
        while self._waiting:
            if not (waiter := self._waiting.popleft()).done():
                return waiter
        return None

    def _drop_bad(self) -> None:
        for session in [each for each in self._ready if not self._good(each)]:
            self._ready.remove(session)
            telemetry.count("replaced in pool", self._template.attributes)
            self._end(session)

    async def _check(self) -> None:
        """Find dead sessions among those that are ready; this may take a while."""
        await asyncio.gather(*(session.check() for session in list(self._ready)))

    def _end(self, session: Session) -> None:
        task = _task_of(end(session))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _close(self) -> None:
        opening = list(self._opening)
        for task in opening:
            task.cancel()
        await asyncio.gather(*opening, return_exceptions=True)
        sessions = list(self._ready)
        self._ready.clear()
        await asyncio.gather(*map(end, sessions), *self._ending, return_exceptions=True)


def _task_of(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    task = asyncio.ensure_future(work)
    # A loop may be closed before the task has ended: `_end_elsewhere` handles that.
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001
    return task


def _end_elsewhere(sessions: deque[Session]) -> None:
    """End the sessions of a pool whose loop was closed before its tasks ended."""

    async def end_all() -> None:
        await asyncio.gather(*map(end, sessions))

    if sessions:
        threading.Thread(target=lambda: asyncio.run(end_all()), name="end of a pool").start()


# A loop holds its pools by their keepers' tasks; a reference from here would keep the loop alive.
_pools: weakref.WeakKeyDictionary[
    asyncio.AbstractEventLoop, weakref.WeakValueDictionary[object, Pool]
] = weakref.WeakKeyDictionary()


def pool_of(template: Template, *, seconds: int, size: int, max_age: float) -> Pool:
    """Return the running loop's pool of a template, grown to the largest `size` requested."""
    pools = _pools.setdefault(asyncio.get_running_loop(), weakref.WeakValueDictionary())
    key = (template, seconds, max_age)
    pool = pools.get(key)
    if pool is None or pool.broken:
        pool = pools[key] = Pool(template, seconds=seconds, size=size, max_age=max_age)
    elif size > pool.size:
        pool.size = size
        pool._wake.set()  # noqa: SLF001 - its own module
    return pool
