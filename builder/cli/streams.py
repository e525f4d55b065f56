"""Standard output and standard error that survive the loss of their readers.

Progress and messages are dropped when nobody reads them or the disk is full, and the work goes on.
On standard output, a reader may close the pipe, as `head` does; any other failure is an error.
"""

from __future__ import annotations

import io
import select
import sys
from typing import Any


class _Stream(io.FileIO):
    """A descriptor whose writes are discarded after one has failed."""

    def __init__(self, descriptor: int, *, required: bool) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self._required = required
        self._failed = False

    def write(self, data: Any) -> int:
        """Write some or all of `data`. Raises `OSError` once if the output is required."""
        size = memoryview(data).nbytes
        while not self._failed:
            try:
                written = super().write(data)
            except OSError as error:
                # The rest of a buffer must not fail again at exit.
                self._failed = True
                if self._required and not isinstance(error, BrokenPipeError):
                    raise
                break
            if written is not None:
                return written
            select.select([], [self], [])  # another program made the descriptor non-blocking
        return size


def tolerate_lost_readers() -> None:
    """Replace the standard streams of the process with ones that survive their readers."""
    # A stream that the caller had closed is None; its descriptor is /dev/null by now.
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - for good
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    # An ASCII terminal gets a `?`, not a traceback.
    for name, required in (("stdout", True), ("stderr", False)):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.flush()
            raw = io.BufferedWriter(_Stream(stream.fileno(), required=required))
            text = io.TextIOWrapper(
                raw, encoding=stream.encoding, errors="replace", line_buffering=True
            )
            setattr(sys, name, text)
