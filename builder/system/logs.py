"""One log file a build attempt, below `.builder/logs/<name>/`; the same of what looks at builds."""

from __future__ import annotations

import contextlib
import datetime as dt
import traceback
from pathlib import Path
from types import TracebackType
from typing import TextIO

from builder.errors import TemplateError, from_os_error

_KEPT = 20


class Log:
    """Lines with the time since the start; safe to read while it is written."""

    def __init__(self, folder: Path, *, target: str, kind: str = "build") -> None:
        """`kind` is what is done: `build`, or something that is no attempt to build."""
        now = dt.datetime.now(dt.UTC)
        self._start = now
        suffix = "" if kind == "build" else f".{kind}"
        self.path = folder / f"{now:%Y%m%dT%H%M%S.%fZ}-{target}{suffix}.log"
        self.shown_by = (
            f"`template-builder logs {folder.name}`" if kind == "build" else f"`{self.path}`"
        )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file: TextIO = self.path.open("w", encoding="utf-8", buffering=1)
        except OSError as error:
            raise from_os_error(error, "starting a log") from error
        for old in _all(folder, kind)[:-_KEPT]:
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
    """The log of a template's newest build attempt, else of whatever was done with it last."""
    logs = _all(folder, "build") or sorted(folder.glob("*.log"))
    return logs[-1] if logs else None


def _all(folder: Path, kind: str) -> list[Path]:
    return sorted(path for path in folder.glob("*.log") if _kind(path) == kind)


def _kind(path: Path) -> str:
    """What a log is of: `…Z-local.log` is of a build, `…Z-local.verify.log` is not."""
    _target, *kind = path.name.partition("Z-")[2].removesuffix(".log").split(".")
    return kind[0] if kind else "build"
