"""What runs code: the shape that every target gives it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from builder.sandbox.execution import Execution
from builder.sandbox.files import SandboxFiles


class Session(Protocol):
    """A sandbox that runs; one caller at a time. The targets provide it."""

    id: str
    opened_at: float
    lifetime: float  # seconds, after which its target ends it

    @property
    def timings(self) -> Mapping[str, float]:
        """Seconds since it was asked for, by what was reached."""
        ...

    @property
    def files(self) -> SandboxFiles:
        """Its files."""
        ...

    async def wait_until_ready(self) -> None:
        """Raises `SandboxError` when its code service does not come up."""
        ...

    async def run(
        self,
        code: str,
        *,
        seconds: float,
        language: str,
        variables: Mapping[str, str],
        limit: int | None,
    ) -> Execution:
        """Run code once, `seconds` at most; keep `limit` characters of each stream.

        Errors of the code are in the result. Raises `InterpreterDiedError`, `SandboxGoneError`
        where nothing was run, `SandboxError`, and `ValueError` for what cannot be run.
        """
        ...

    def usable(self) -> bool:
        """Whether nothing is known that keeps it from running code."""
        ...

    async def check(self) -> bool:
        """Find out whether it still runs."""
        ...

    async def close(self) -> None:
        """End it, and all that runs in it."""
        ...


class Sandbox(Protocol):
    """What runs the code of callers that wait for it, a session for the most part."""

    @property
    def timings(self) -> Mapping[str, float]:
        """Seconds since it was asked for, by what was reached."""
        ...

    def run(self, code: str, *, timeout: float) -> Execution:
        """Run Python code, `timeout` in seconds. Errors of the code are in the result."""
        ...

    def close(self) -> None:
        """End it and all that runs in it."""
        ...
