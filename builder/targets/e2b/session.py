"""Sandboxes of E2B for applications, over the SDK; code is run by `CodeService`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TypeVar

import e2b
import tenacity

from builder.errors import (
    InterpreterDiedError,
    LimitError,
    NetworkError,
    SandboxError,
    TargetUnavailableError,
    TemplateError,
    UnknownTemplateError,
)
from builder.sandbox.execution import Execution
from builder.system.limits import limit_error
from builder.system.tasks import run_to_completion
from builder.targets.e2b.account import Account
from builder.targets.e2b.creation import Creation
from builder.targets.e2b.failures import (
    UnsettledError,
    failure_of,
    if_it_may_pass,
    is_foreign,
    kind_of,
    words_of,
)
from builder.targets.e2b.files import CloudFiles
from builder.targets.e2b.service import CodeService

__all__ = ["CloudSession"]

_T = TypeVar("_T")
_logger = logging.getLogger(__name__)
_LIMIT_SECONDS = 60.0
_FAULT_ATTEMPTS = 5
_KILL_SECONDS = 20.0


class CloudSession:
    """A running sandbox. One caller at a time."""

    def __init__(self, sandbox: e2b.AsyncSandbox, *, key: str, lifetime: float) -> None:
        self._sandbox, self._key, self.lifetime = sandbox, key, lifetime
        self.id = sandbox.sandbox_id
        self.files = CloudFiles(sandbox)
        self.opened_at = time.monotonic()
        self._gone = False
        self._service = CodeService(sandbox, alive=self.check, worded=self._worded)

    @classmethod
    async def open(cls, ref: str, *, account: Account, seconds: int) -> CloudSession:
        """Create a sandbox of `ref`, which E2B ends after `seconds`, or as long as the account lets
        it live.

        Raises `UnknownTemplateError`, `TargetUnavailableError` for a key that is refused,
        `LimitError`, `NetworkError`, `SandboxError`; then, and when it is cancelled, no sandbox is
        left behind.
        """
        creation = Creation(account, ref, seconds=seconds)

        async def create() -> e2b.AsyncSandbox:
            try:
                return await creation.async_kind.create(**creation.options)
            except Exception as error:
                if not creation.changed_by(error):
                    raise
                if creation.abandoned:
                    await _end_marked(creation, account)  # it would count against the limit
                raise UnsettledError(str(error)) from error

        async def created() -> e2b.AsyncSandbox:
            held: str | None = None
            try:
                sandbox = await _retried(create)
                held = sandbox.sandbox_id
                return sandbox
            finally:
                if creation.doubtful:
                    await _end_marked(creation, account, but=held)

        creating = asyncio.ensure_future(created())
        try:
            sandbox = await asyncio.shield(creating)
        except asyncio.CancelledError:
            await run_to_completion(_discarded(creating, create))
            raise
        except Exception as error:
            raise _translated(error, ref, account) from error
        return cls(sandbox, key=account.api_key, lifetime=creation.seconds)

    async def wait_until_ready(self) -> None:
        """Wait for the code service, two minutes at most. Raises `SandboxError`."""
        await self._service.wait_until_ready()

    async def run(
        self, code: str, *, seconds: float, language: str, variables: Mapping[str, str], limit: int
    ) -> Execution:
        """Run code once. After `seconds` it is interrupted; an interpreter that does not
        obey is restarted. Raises `SandboxError`; what had begun to run is never run again."""
        try:
            return await self._service.run(
                code, seconds=seconds, language=language, variables=variables, limit=limit
            )
        except InterpreterDiedError as error:
            seen = error.seen if isinstance(error.seen, Execution) else Execution()
            return replace(seen, error=f"InterpreterDied: {error.message}", lost=True)

    def usable(self) -> bool:
        """Whether nothing is known that keeps it from running code."""
        return not (self._gone or self._service.broken)

    async def check(self) -> bool:
        """Ask E2B whether it runs; what cannot be asked is taken for yes."""
        with contextlib.suppress(Exception):
            self._gone = self._gone or not await self._sandbox.is_running()
        return self.usable()

    async def close(self) -> None:
        """End the sandbox; what fails is left to its own timeout."""
        self._gone = True
        with contextlib.suppress(Exception):
            await self._service.close()
        try:
            async with asyncio.timeout(_KILL_SECONDS):
                await _retried(self._sandbox.kill)
        except Exception as error:  # noqa: BLE001 - whatever it is, an end must end
            _logger.warning(
                "the sandbox %s could not be ended, which its own timeout will do: %s",
                self.id,
                str(error).replace(self._key, "<the key>"),
            )

    def _worded(self, text: str) -> str:
        return f"the sandbox {self.id}: {text}".replace(self._key, "<the key>")


async def _retried(call: Callable[[], Awaitable[_T]]) -> _T:
    """What a call gives in the end: limits are waited for, faults are tried again, with a bound."""

    def give_up(state: tenacity.RetryCallState) -> bool:
        if kind_of(failure_of(state)) == "limit":
            return (state.seconds_since_start or 0.0) > _LIMIT_SECONDS
        return state.attempt_number >= _FAULT_ATTEMPTS

    async def attempt() -> _T:
        return await call()

    retrying = tenacity.AsyncRetrying(
        retry=if_it_may_pass,
        stop=give_up,
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=5, min=0.1),
        reraise=True,
    )
    return await retrying(attempt)


async def _discarded(
    creating: asyncio.Future[e2b.AsyncSandbox], create: Callable[[], Awaitable[e2b.AsyncSandbox]]
) -> None:
    with contextlib.suppress(Exception):
        async with asyncio.timeout(_KILL_SECONDS):
            await asyncio.wait([creating])
            # A loop that ends cancels this, too; the same key gives the sandbox that was made.
            await _retried((await (_retried(create) if creating.cancelled() else creating)).kill)


async def _end_marked(creation: Creation, account: Account, but: str | None = None) -> None:
    """End what was created though nobody was told of it."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(_KILL_SECONDS):
            query = e2b.SandboxQuery(metadata=creation.mark)
            listed = e2b.AsyncSandbox.list(query=query, **account.options)
            for sandbox_id in [each.sandbox_id for each in await _retried(listed.next_items)]:
                if sandbox_id != but:
                    kill = partial(e2b.AsyncSandbox.kill, sandbox_id, **account.options)
                    await _retried(kill)


def _translated(error: Exception, ref: str, account: Account) -> TemplateError:
    if isinstance(error, TemplateError):
        return error
    if reached := limit_error(error):
        return reached
    said = words_of(error).replace(account.api_key, "<the key>")
    if isinstance(error, e2b.AuthenticationException):
        return TargetUnavailableError(f"E2B refused the key of target `{account.target}`: {said}")
    if isinstance(error, e2b.NotFoundException) or said.startswith("404"):
        return UnknownTemplateError(f"target `{account.target}` has no template `{ref}`: {said}")
    kind = kind_of(error)
    if kind == "limit":
        return LimitError(
            f"creating a sandbox of `{ref}` was refused for {_LIMIT_SECONDS:.0f} seconds: {said}",
            hint="end sandboxes that are not needed, or ask E2B for a higher limit",
        )
    if kind == "fault":
        hint = f"is `{account.origin}` the address of its API?" if is_foreign(error) else None
        return NetworkError(f"creating a sandbox of `{ref}` failed: {said}", hint=hint)
    return SandboxError(f"creating a sandbox of `{ref}` was refused: {said}")
