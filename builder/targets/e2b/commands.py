"""Commands in a sandbox on E2B, through the SDK: login shells of the account `user`."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator

import e2b

from builder.errors import NetworkError, SandboxError, SandboxGoneError
from builder.sandbox.commands import CommandResult
from builder.targets.e2b.connection import POLL_SECONDS, START_SECONDS
from builder.targets.e2b.failures import kind_of, words_of


async def run_command(
    sandbox: e2b.AsyncSandbox, text: str, *, seconds: float, worded: Callable[[str], str]
) -> CommandResult:
    """Run a command, and kill it after `seconds`. `worded` makes a message about the sandbox.

    Raises `SandboxGoneError`, `NetworkError` and `SandboxError`.
    """
    start, exit_code, timed_out = time.perf_counter(), 0, False
    with _translated(worded):
        # Its own time-out would end the connection, and not the command.
        handle = await sandbox.commands.run(text, background=True, timeout=0)
        try:
            async with asyncio.timeout(seconds):
                await handle.wait()
        except e2b.CommandExitException as error:
            exit_code = error.exit_code
        except TimeoutError:
            timed_out = True
            await handle.kill()
    return CommandResult(
        exit_code=exit_code,
        stdout=handle.stdout,
        stderr=handle.stderr,
        timed_out=timed_out,
        seconds=time.perf_counter() - start,
    )


async def wait_until_running(sandbox: e2b.AsyncSandbox, *, worded: Callable[[str], str]) -> None:
    """Wait up to two minutes until the sandbox runs commands. Raises `SandboxError`."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        problem = "it does not answer"
        try:
            if await sandbox.is_running():
                return
        except Exception as error:
            problem = words_of(error)
            if kind_of(error) == "final":
                raise SandboxError(worded(f"it does not run: {problem}")) from error
        if time.monotonic() > deadline:
            raise SandboxError(worded(f"it did not start within two minutes: {problem}"))
        await asyncio.sleep(POLL_SECONDS)


@contextlib.contextmanager
def _translated(worded: Callable[[str], str]) -> Iterator[None]:
    """Translate what the SDK raises about a command."""
    try:
        yield
    except (e2b.SandboxNotRunningException, e2b.NotFoundException) as error:
        text = f"it ended before the command did: {words_of(error)}"
        raise SandboxGoneError(worded(text)) from error
    except Exception as error:
        failed = NetworkError if kind_of(error) == "fault" else SandboxError
        raise failed(worded(f"it cannot run the command: {words_of(error)}")) from error
