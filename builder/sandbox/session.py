"""What runs code, and what opens it: the shape that every target gives it."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Protocol

from builder.sandbox.execution import Execution

__all__ = ["Sandbox", "SandboxOpener"]


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


class SandboxOpener(Protocol):
    """The part of a target that opens sandboxes."""

    def open(
        self,
        ref: str,
        *,
        name: str,
        warm: Sequence[str],
        env: Mapping[str, str],
        cold: bool = False,
    ) -> Sandbox:
        """Open a sandbox of a build of template `name`, the modules of `warm` imported already.

        With `cold`, its interpreter has imported nothing, even where the build keeps a warm one.
        Raises `SandboxError`, `NotOnThisMachineError`.
        """
        ...

    def changes(self, ref: str) -> Sequence[str]:
        """What of a build is not as it was made, in words, where that can be seen. Raises
        `StorageError`."""
        ...

    def copies(
        self, first: Sandbox, ref: str, *, name: str, warm: Sequence[str], env: Mapping[str, str]
    ) -> Generator[Sandbox, None, None]:
        """Two sandboxes, one after the other, whose interpreters are copies of the same warm one;
        `first` was opened with `warm`, and may be one of them. None where there are no copies."""
        ...
