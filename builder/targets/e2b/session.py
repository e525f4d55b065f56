"""Sessions on E2B for applications, through the SDK; `CodeService` runs their code."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Unpack

import e2b

from builder.errors import BuildError, SandboxError, TemplateError, UnknownTemplateError
from builder.sandbox.commands import CommandResult
from builder.sandbox.execution import Execution
from builder.sandbox.network import Network
from builder.sandbox.session import RunOptions
from builder.system.limits import limit_error
from builder.targets.e2b.account import Account
from builder.targets.e2b.commands import run_command
from builder.targets.e2b.connection import Connection
from builder.targets.e2b.creation import Creation
from builder.targets.e2b.failures import translated, words_of
from builder.targets.e2b.files import CloudFiles
from builder.targets.e2b.retries import OF_APPLICATIONS
from builder.targets.e2b.service import CodeService

_logger = logging.getLogger(__name__)
_KILL_SECONDS = 20.0


class CloudSession:
    """A running sandbox. One caller at a time."""

    isolation = "virtual machine"

    def __init__(
        self,
        sandbox: e2b.AsyncSandbox,
        *,
        account: Account,
        lifetime: float,
        start: float,
        warn: Callable[[str], None] = _logger.warning,
    ) -> None:
        """E2B ends the sandbox after `lifetime` seconds; it was requested at `start`, a
        `time.perf_counter`. `warn` receives a message if it cannot be ended."""
        self.sandbox, self._account, self.lifetime = sandbox, account, lifetime
        self._warn = warn
        self._start = start
        self.timings: dict[str, float] = {}
        self._reached("created")
        self.id = sandbox.sandbox_id
        self.files = CloudFiles(sandbox)
        self.opened_at = time.monotonic()
        self._gone = False
        connection = Connection(sandbox, alive=self.check, worded=self.worded)
        self.service = CodeService(connection)

    @classmethod
    async def open(
        cls, ref: str, *, account: Account, seconds: int, network: Network | None = None
    ) -> CloudSession:
        """Create a sandbox of `ref`, which E2B ends after `seconds`, or earlier if the account's
        limit is lower. `network` None leaves E2B's default.

        Raises `UnknownTemplateError`, `TargetUnavailableError` if the key is refused, `LimitError`,
        `NetworkError` and `SandboxError`. On an error or a cancellation no sandbox is left.
        """
        creation = Creation(account, ref, seconds=seconds, network=network)
        start = time.perf_counter()
        try:
            sandbox = await creation.sandbox(OF_APPLICATIONS)
        except Exception as error:
            raise _translated(error, ref, account) from error
        return cls(sandbox, account=account, lifetime=creation.seconds, start=start)

    async def wait_until_ready(self) -> None:
        """Wait up to two minutes for the code service. Raises `SandboxError`."""
        await self.service.wait_until_ready()
        self._reached("ready")

    async def run(self, code: str, **options: Unpack[RunOptions]) -> Execution:
        """Run code once; see `CodeService.run`."""
        return await self.service.run(code, **options)

    async def command(self, text: str, *, seconds: float) -> CommandResult:
        """Run a command in a login shell; see `run_command`."""
        return await run_command(self.sandbox, text, seconds=seconds, worded=self.worded)

    def usable(self) -> bool:
        """Return True unless the session is known to be unusable."""
        return not (self._gone or self.service.broken)

    async def check(self) -> bool:
        """Ask E2B whether the sandbox runs; no response counts as yes."""
        with contextlib.suppress(Exception):
            self._gone = self._gone or not await self.sandbox.is_running()
        return self.usable()

    async def close(self) -> None:
        """End the sandbox; if that fails, its own timeout does."""
        self._gone = True
        with contextlib.suppress(Exception):
            await self.service.close()
        try:
            async with asyncio.timeout(_KILL_SECONDS):
                await OF_APPLICATIONS.wait_for(self.sandbox.kill)
        except Exception as error:  # noqa: BLE001 - closing must not fail
            left = max(0.0, self.opened_at + self.lifetime - time.monotonic())
            reason = self._account.redacted(words_of(error))
            self._warn(
                f"cannot end the sandbox {self.id}: {reason}; E2B ends it within {left:.0f} seconds"
            )

    def worded(self, text: str) -> str:
        """Return a message about the sandbox."""
        return self._account.redacted(f"the sandbox {self.id}: {text}")

    def _reached(self, state: str) -> None:
        self.timings[state] = round(time.perf_counter() - self._start, 6)


def _translated(error: Exception, ref: str, account: Account) -> TemplateError:
    if isinstance(error, TemplateError):
        return error
    if exhausted := limit_error(error):
        return exhausted
    reason = account.redacted(words_of(error))
    if isinstance(error, e2b.NotFoundException) or reason.startswith("404"):
        return UnknownTemplateError(f"target `{account.target}` has no template `{ref}`: {reason}")
    failure = translated(error, f"creating a sandbox of `{ref}`", account)
    return SandboxError(failure.message) if type(failure) is BuildError else failure
