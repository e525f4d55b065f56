"""The result of a command, and how standard output shows it: as text, tables or JSON.

Hidden characters are always made visible.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from builder.cli import progress
from builder.cli.tables import lines_of
from builder.errors import TemplateError, from_os_error
from builder.errors.visible import one_line, visible
from builder.system.events import Reporter

_json_shown = False  # the process has one standard output


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows under their headings."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


class Document(str):
    """Text of several lines, shown as they are."""

    __slots__ = ()


Line = str | Table | Document


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What a command found or did, and how it ends.

    `json` is the output of `--json`, None for a command without it. `data` is what the user asked
    for, so `--quiet` shows it too. `text` is for people; with `--quiet`, `brief` replaces it, on
    standard error. `error` is raised once the rest is shown.
    """

    json: object = None
    data: Iterable[Line] = ()
    text: Iterable[Line] = ()
    brief: str | None = None
    error: TemplateError | None = None
    exit_code: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """How to show progress and results, as `--json` and `--quiet` say."""

    as_json: bool = False
    quiet: bool = False

    def progress(self) -> AbstractContextManager[Reporter]:
        """Display progress on standard error for the `with` block."""
        return progress.reporting(quiet=self.quiet, as_json=self.as_json)

    def text(self, lines: Iterable[Line]) -> None:
        """Show text for people while the command runs."""
        if not self.as_json and not self.quiet:
            _show(lines)

    def show(self, result: Result) -> int:
        """Show a result and return its exit code. Raises the result's error."""
        if self.as_json and result.json is not None:
            _show_json(result.json)
        else:
            _show(result.data)
            if not self.quiet:
                _show(result.text)
            elif result.brief and not result.error:
                progress.show_message(result.brief)
        if result.error:
            raise result.error
        return result.exit_code

    def show_failure(self, error: Mapping[str, object]) -> None:
        """Print a failure as JSON with `--json`, unless the JSON value was printed already."""
        if self.as_json and not _json_shown:
            _show_json({"error": error})


def size(count: int) -> str:
    """Format bytes: `48 MiB`, `1,234 MiB`."""
    return f"{count / 2**20:,.0f} MiB"


def duration(seconds: float) -> str:
    """Format seconds: `1.5 s`, `12.0 ms`, `80 µs`."""
    if seconds >= 0.1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1e3:.1f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} µs"


def _show(lines: Iterable[Line]) -> None:
    for line in lines:
        if isinstance(line, Table):
            _show_table(line)
        elif isinstance(line, Document):
            shown = visible(line)
            _write(shown if shown.endswith("\n") or not shown else f"{shown}\n")
        else:
            _write(f"{one_line(line)}\n")


def _show_json(value: object) -> None:
    global _json_shown  # noqa: PLW0603 - see there
    _json_shown = True
    _write(f"{progress.json_text(value, indent=2)}\n")


def _show_table(table: Table) -> None:
    headings = [one_line(heading) for heading in table.headings]
    rows = [[one_line(cell) for cell in row] for row in table.rows]
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in lines_of(headings, rows, width):
        _write(f"{line}\n")


def _write(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        raise from_os_error(error, "writing the output") from error
