"""The interfaces through which every target runs code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypedDict, Unpack

from builder.errors import SandboxError
from builder.sandbox.commands import CommandResult
from builder.sandbox.execution import Execution
from builder.sandbox.files import SandboxFiles


class ConnectionLostError(SandboxError):
    """The connection to a sandbox was lost while code ran; it may have run to its end."""


# Where E2B's code service answers in a sandbox.
CODE_SERVICE_PORT = 49999


class RunOptions(TypedDict):
    """How code is run: for `seconds` at most, with `variables` in its environment; `limit`
    characters of each stream are kept, None for all."""

    seconds: float
    language: str
    variables: Mapping[str, str]
    limit: int | None


class Session(Protocol):
    """An open sandbox that runs code, implemented by each target; one caller at a time."""

    id: str
    opened_at: float
    lifetime: float  # seconds after which the target ends it
    isolation: str  # "virtual machine", "confined" or "none"

    @property
    def timings(self) -> Mapping[str, float]:
        """Seconds from the request until each state was reached."""

    @property
    def files(self) -> SandboxFiles:
        """The sandbox's files."""

    async def wait_until_ready(self) -> None:
        """Wait until it can run code. Raises `SandboxError`."""

    async def run(self, code: str, **options: Unpack[RunOptions]) -> Execution:
        """Run code once; its errors are in the result.

        Raises `InterpreterDiedError`, `SandboxGoneError` if the code did not start, `SandboxError`,
        and `ValueError` for a language or variables that cannot be used.
        """

    async def command(self, text: str, *, seconds: float) -> CommandResult:
        """Run a command in a shell, as the default user in the working folder.

        Raises `SandboxGoneError`, `SandboxError`, and `NetworkError` for a sandbox on another
        machine.
        """

    def usable(self) -> bool:
        """Return True unless the session is known to be unusable."""

    async def check(self) -> bool:
        """Ask the target whether it still runs."""

    async def close(self) -> None:
        """End it and all that runs in it."""


class Sandbox(Protocol):
    """Runs code while the caller waits, usually in a session."""

    @property
    def timings(self) -> Mapping[str, float]:
        """Seconds from the request until each state was reached."""

    def run(self, code: str, *, timeout: float) -> Execution:
        """Run Python code for at most `timeout` seconds; its errors are in the result."""

    def command(self, text: str, *, timeout: float) -> CommandResult:
        """Run a command in a shell for at most `timeout` seconds, as the default user."""

    def close(self) -> None:
        """End it and all that runs in it."""
