"""Sandboxes of E2B for applications, over the SDK; code is run by `CodeService`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

import e2b

from builder.errors import (
    LimitError,
    NetworkError,
    SandboxError,
    TargetUnavailableError,
    TemplateError,
    UnknownTemplateError,
)
from builder.sandbox.execution import Execution
from builder.system.limits import limit_error
from builder.targets.e2b.account import Account
from builder.targets.e2b.creation import Creation
from builder.targets.e2b.failures import is_foreign, kind_of, words_of
from builder.targets.e2b.files import CloudFiles
from builder.targets.e2b.retries import OF_APPLICATIONS
from builder.targets.e2b.service import CodeService

_logger = logging.getLogger(__name__)
_KILL_SECONDS = 20.0


class CloudSession:
    """A running sandbox. One caller at a time."""

    def __init__(
        self,
        sandbox: e2b.AsyncSandbox,
        *,
        redacted: Callable[[str], str],
        lifetime: float,
        start: float,
    ) -> None:
        """`redacted` takes the key out of a message, `lifetime` is after how many seconds E2B ends
        it, `start` when it was asked for, as `time.perf_counter` tells it."""
        self.sandbox, self._redacted, self.lifetime = sandbox, redacted, lifetime
        self._start = start
        self.timings: dict[str, float] = {}
        self._reached("created")
        self.id = sandbox.sandbox_id
        self.files = CloudFiles(sandbox)
        self.opened_at = time.monotonic()
        self._gone = False
        self.service = CodeService(sandbox, alive=self.check, worded=self.worded)

    @classmethod
    async def open(cls, ref: str, *, account: Account, seconds: int) -> CloudSession:
        """Create a sandbox of `ref`, which E2B ends after `seconds`, or as long as the account lets
        it live.

        Raises `UnknownTemplateError`, `TargetUnavailableError` for a key that is refused,
        `LimitError`, `NetworkError`, `SandboxError`; then, and when it is cancelled, no sandbox is
        left behind.
        """
        creation = Creation(account, ref, seconds=seconds)
        start = time.perf_counter()
        try:
            sandbox = await creation.sandbox(OF_APPLICATIONS)
        except Exception as error:
            raise _translated(error, ref, account) from error
        return cls(
            sandbox,
            redacted=lambda text: text.replace(account.api_key, "<the key>"),
            lifetime=creation.seconds,
            start=start,
        )

    async def wait_until_ready(self) -> None:
        """Wait for the code service, two minutes at most. Raises `SandboxError`."""
        await self.service.wait_until_ready()
        self._reached("ready")

    async def run(self, code: str, *, seconds: float, **options: Any) -> Execution:
        """Run code once, as `CodeService.run` does."""
        return await self.service.run(code, seconds=seconds, **options)

    def usable(self) -> bool:
        """Whether nothing is known that keeps it from running code."""
        return not (self._gone or self.service.broken)

    async def check(self) -> bool:
        """Ask E2B whether it runs; what cannot be asked is taken for yes."""
        with contextlib.suppress(Exception):
            self._gone = self._gone or not await self.sandbox.is_running()
        return self.usable()

    async def close(self) -> None:
        """End the sandbox; what fails is left to its own timeout."""
        self._gone = True
        with contextlib.suppress(Exception):
            await self.service.close()
        await self.end()

    async def end(self) -> None:
        """End it, but not what is kept of it here."""
        try:
            async with asyncio.timeout(_KILL_SECONDS):
                await OF_APPLICATIONS.wait_for(self.sandbox.kill)
        except Exception as error:  # noqa: BLE001 - whatever it is, an end must end
            _logger.warning(
                "the sandbox %s could not be ended, which its own timeout will do: %s",
                self.id,
                self._redacted(str(error)),
            )

    def worded(self, text: str) -> str:
        """A message about it."""
        return self._redacted(f"the sandbox {self.id}: {text}")

    def _reached(self, state: str) -> None:
        self.timings[state] = round(time.perf_counter() - self._start, 6)


def _translated(error: Exception, ref: str, account: Account) -> TemplateError:
    if isinstance(error, TemplateError):
        return error
    if reached := limit_error(error):
        return reached
    reason = words_of(error).replace(account.api_key, "<the key>")
    if isinstance(error, e2b.AuthenticationException):
        return TargetUnavailableError(f"E2B refused the key of target `{account.target}`: {reason}")
    if isinstance(error, e2b.NotFoundException) or reason.startswith("404"):
        return UnknownTemplateError(f"target `{account.target}` has no template `{ref}`: {reason}")
    kind = kind_of(error)
    if kind == "limit":
        return LimitError(
            f"creating a sandbox of `{ref}` was refused for"
            f" {OF_APPLICATIONS.limit_seconds:.0f} seconds: {reason}",
            hint="end sandboxes that are not needed, or ask E2B for a higher limit",
        )
    if kind == "fault":
        hint = f"is `{account.origin}` the address of its API?" if is_foreign(error) else None
        return NetworkError(f"creating a sandbox of `{ref}` failed: {reason}", hint=hint)
    return SandboxError(f"creating a sandbox of `{ref}` was refused: {reason}")
