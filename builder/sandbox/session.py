"""What runs code: the shape that every target gives it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from builder.sandbox.execution import Execution

__all__ = ["Sandbox"]


class Sandbox(Protocol):
    """A running sandbox."""

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
