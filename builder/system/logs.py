"""Log files in `.builder/logs/<name>/`: one for each build, pre-check and verification."""

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
    """Lines with the time since the start; can be read while it is written."""

    def __init__(self, folder: Path, *, target: str, kind: str = "build") -> None:
        """`kind` is `build`, or another action on a template."""
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
        """Add a line. A log that cannot be written does not stop a build."""
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
    """Return the log of a template's newest build, else its newest log of any kind."""
    logs = _all(folder, "build") or sorted(folder.glob("*.log"))
    return logs[-1] if logs else None


def _all(folder: Path, kind: str) -> list[Path]:
    return sorted(path for path in folder.glob("*.log") if _kind(path) == kind)


def _kind(path: Path) -> str:
    """Return the kind of a log: `…Z-local.log` is of a build, `…Z-local.verify.log` is not."""
    _target, *kind = path.name.partition("Z-")[2].removesuffix(".log").split(".")
    return kind[0] if kind else "build"
