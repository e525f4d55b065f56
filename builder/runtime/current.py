"""The session that a primitive runs code in: opened when needed, replaced before it is too old."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass

from builder.errors import SandboxError
from builder.runtime.pool import Pool, pool_of
from builder.runtime.session import end, open_session
from builder.runtime.template import Template, check_not_revoked
from builder.sandbox.session import Session
from builder.system import telemetry

_logger = logging.getLogger(__name__)
# How long a sandbox outlives the age at which it is replaced, for what still runs in it.
_MARGIN_SECONDS = 300
_CLEANED_UP = "`cleanup` was called while the sandbox was being opened"


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """How the sandboxes of a primitive are opened and replaced. Times are in seconds."""

    template: Template
    timeout: float
    max_age: float
    pool_size: int
    warm: bool

    def lifetime(self, seconds: float) -> int:
        """Return how long a sandbox lives that is opened for an execution of `seconds`."""
        return int(max(self.max_age, seconds) + _MARGIN_SECONDS)

    def pool(self) -> Pool:
        """Return the running loop's pool."""
        return pool_of(
            self.template,
            seconds=self.lifetime(self.timeout),
            size=self.pool_size,
            max_age=self.max_age / 2,
        )

    def pools(self, seconds: float) -> bool:
        """Return whether there is a pool whose sandboxes outlive an execution of `seconds`."""
        return bool(self.pool_size) and seconds <= self.lifetime(self.timeout) - _MARGIN_SECONDS


class CurrentSession:
    """At most one session at a time, used by one caller at a time, all in one event loop."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.source = "cold"
        self._guard = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = asyncio.Lock()
        self._users = self._cleanups = 0
        self._session: Session | None = None
        self._opening: asyncio.Task[Session] | None = None

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Keep other callers waiting for the `async with` block. Raises `RuntimeError` if one in
        another event loop holds it."""
        loop = asyncio.get_running_loop()
        with self._guard:
            if self._loop is not loop:
                if self._users:
                    raise RuntimeError(
                        "this CodeExecutionPrimitive is in use in another event loop: create"
                        " one for each thread"
                    )
                self._loop, self._lock = loop, asyncio.Lock()
            self._users += 1
        try:
            async with self._lock:
                yield
        finally:
            with self._guard:
                self._users -= 1

    def open_in_background(self) -> None:
        """Start opening a session, which the next `get` waits for."""
        self._opening = asyncio.ensure_future(self._open(self.policy.timeout))

    async def get(self, seconds: float) -> Session:
        """Return the session, replaced if it is too old for an execution of `seconds`."""
        if opening := self._opening:
            try:
                # Shielded: if this call is cancelled now, `clean_up` still ends what is opened.
                self._session = await asyncio.shield(opening)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if opening.cancelled() and task and not task.cancelling():
                    raise SandboxError(_CLEANED_UP) from None
                raise
            except BaseException:
                self._opening = None
                raise
            if self._opening is not opening:
                await self.drop()
                raise SandboxError(_CLEANED_UP)
            self._opening = None
        session = self._session
        if session:
            age = time.monotonic() - session.opened_at
            if not session.usable():
                await self.drop("replaced")
            elif age >= self.policy.max_age or not _outlives(session, seconds):
                _logger.info("the sandbox %s is %.0f seconds old: taking another", session.id, age)
                await self.drop("rotated")
        return self._session or await self._kept(self._open(seconds))

    async def replace(self, seconds: float) -> Session:
        """Replace a session that has ended by a new one, not from the pool."""
        await self.drop("replaced")
        return await self._kept(self._open_cold(seconds))

    async def drop(self, why: str | None = None) -> None:
        """End the session, and count the reason."""
        session, self._session = self._session, None
        if session:
            if why:
                telemetry.count(why, self.policy.template.attributes)
            await end(session)

    async def clean_up(self) -> None:
        """End the session, and one that is being opened."""
        self._cleanups += 1
        opening, self._opening = self._opening, None
        if opening:
            opening.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await end(await opening)
        await self.drop()

    async def _kept(self, opening: Awaitable[Session]) -> Session:
        """Return the session that is being opened, unless it was cleaned up meanwhile."""
        cleanups = self._cleanups
        session = await opening
        if cleanups != self._cleanups:
            await end(session)
            raise SandboxError(_CLEANED_UP)
        self._session = session
        return session

    async def _open(self, seconds: float) -> Session:
        if self.policy.pools(seconds):
            check_not_revoked(self.policy.template)
            pool = self.policy.pool()
            ready = pool.ready()
            session = await pool.take()
            if _outlives(session, seconds):
                self.source = "pool" if ready else "cold"
                return session
            await end(session)
        return await self._open_cold(seconds)

    async def _open_cold(self, seconds: float) -> Session:
        self.source = "cold"
        policy = self.policy
        return await open_session(
            policy.template, seconds=policy.lifetime(seconds), warm=policy.warm
        )


def _outlives(session: Session, seconds: float) -> bool:
    """Return whether its target lets a session live as long as an execution may take."""
    return time.monotonic() - session.opened_at + seconds <= session.lifetime
