"""Commands for the shell of a sandbox, and Python code that runs as such a command."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from builder.sandbox.execution import Execution


@dataclass(frozen=True, kw_only=True, slots=True)
class CommandResult:
    """How a command ended. One that has `timed_out` was killed, and has no meaningful exit code."""

    exit_code: int
    stdout: str = ""
    stderr: str = ""
    timed_out: bool = False
    seconds: float = 0.0


def python_command(code: str) -> str:
    """Return a command that runs code with the sandbox's `python3`."""
    return shlex.join(["python3", "-c", code])


def as_execution(result: CommandResult) -> Execution:
    """Return the result of a `python_command` as that of running its code."""
    failed = result.exit_code != 0
    return Execution(
        stdout=result.stdout,
        stderr=result.stderr,
        error=last_line(result) if failed and not result.timed_out else None,
        traceback=result.stderr if failed else "",
        timed_out=result.timed_out,
        seconds=result.seconds,
    )


def last_line(result: CommandResult) -> str:
    """Return the last line of standard error, or else the exit code."""
    return (result.stderr.strip().splitlines() or [f"exit code {result.exit_code}"])[-1]
