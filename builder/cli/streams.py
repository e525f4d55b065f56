"""Standard output and standard error whose readers may go away while the program works.

Progress and messages are for whoever still reads them: without a reader, or on a full disk, they
are dropped and the work goes on. Standard output holds what was asked for: a reader that closes the
pipe, as `head` does, has had enough, and any other failure is an error.
"""

from __future__ import annotations

import io
import select
import sys
from typing import Any


class _Stream(io.FileIO):
    """A descriptor whose writes succeed, to nowhere, once one of them has failed."""

    def __init__(self, descriptor: int, *, required: bool) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self._required = required
        self._failed = False

    def write(self, data: Any) -> int:
        """Write all or a part of `data`. Raises `OSError` once, where the output is required."""
        size = memoryview(data).nbytes
        while not self._failed:
            try:
                written = super().write(data)
            except OSError as error:
                # What is still in a buffer must not fail again at the end of the process.
                self._failed = True
                if self._required and not isinstance(error, BrokenPipeError):
                    raise
                break
            if written is not None:
                return written
            select.select([], [self], [])  # another program has made the descriptor non-blocking
        return size


def tolerate_lost_readers() -> None:
    """Replace the standard streams of the process by ones that outlive their readers."""
    # A stream that the caller had closed is None; its descriptor leads to /dev/null by now.
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - for good
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    # A terminal that knows ASCII alone gets a `?`, not a traceback.
    for name, required in (("stdout", True), ("stderr", False)):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.flush()
            raw = io.BufferedWriter(_Stream(stream.fileno(), required=required))
            setattr(
                sys,
                name,
                io.TextIOWrapper(
                    raw,
                    encoding=stream.encoding,
                    errors="replace",
                    line_buffering=True,
                ),
            )
