"""One log file a build attempt, below `.builder/logs/<name>/`."""

from __future__ import annotations

import contextlib
import datetime as dt
import traceback
from pathlib import Path
from types import TracebackType
from typing import TextIO

from builder.errors import TemplateError, from_os_error

__all__ = ["Log", "latest"]

_KEPT = 20


class Log:
    """Lines with the time since the start; safe to read while it is written."""

    def __init__(self, folder: Path, *, target: str) -> None:
        now = dt.datetime.now(dt.UTC)
        self._start = now
        self.path = folder / f"{now:%Y%m%dT%H%M%S.%fZ}-{target}.log"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file: TextIO = self.path.open("w", encoding="utf-8", buffering=1)
        except OSError as error:
            raise from_os_error(error, "starting a log") from error
        for old in _all(folder)[:-_KEPT]:
            with contextlib.suppress(OSError):
                old.unlink()

    def line(self, text: str) -> None:
        """Add one line; a log that cannot be written must not stop a build."""
        seconds = (dt.datetime.now(dt.UTC) - self._start).total_seconds()
        with contextlib.suppress(OSError, ValueError):
            self._file.write(f"{seconds:9.3f} {text}\n")

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self.line(f"{type(error).__name__}: {error}")
            if not isinstance(error, TemplateError):
                self.line("".join(traceback.format_exception(error)))
        with contextlib.suppress(OSError):
            self._file.close()


def latest(folder: Path) -> Path | None:
    """The newest log of a template, or None."""
    logs = _all(folder)
    return logs[-1] if logs else None


def _all(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.log"))
