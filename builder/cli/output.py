"""What a command hands over, and how it is shown: as text, as tables or as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from builder.cli import progress
from builder.cli.progress import duration, size
from builder.errors import TemplateError
from builder.system.events import Reporter

__all__ = ["Document", "Line", "Output", "Result", "Table", "duration", "size"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows under their headings."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


class Document(str):
    """Text of several lines, which are shown as they are."""

    __slots__ = ()


Line = str | Table | Document


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What a command was asked for, and how it ends.

    `json` is for machines; None where there is no such form. `data` is what was asked for, so that
    `--quiet` shows it, too; `text` is for people, and `brief` what `--quiet` says in its place, on
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
    """How a run shows what it does and finds: `--json` and `--quiet`."""

    as_json: bool = False
    quiet: bool = False

    def progress(self) -> AbstractContextManager[Reporter]:
        """The display of what is under way, on standard error, for the `with` block."""
        return progress.reporting(quiet=self.quiet, as_json=self.as_json)

    def text(self, lines: Iterable[Line]) -> None:
        """Show what is for people, while the command goes on."""
        if not self.as_json and not self.quiet:
            _write(lines)

    def show(self, result: Result) -> int:
        """Show a result; the exit code. Raises the result's error."""
        if self.as_json and result.json is not None:
            progress.show_json(result.json)
        else:
            _write(result.data)
            if not self.quiet:
                _write(result.text)
            elif result.brief and not result.error:
                progress.show_message(result.brief)
        if result.error:
            raise result.error
        return result.exit_code


def _write(lines: Iterable[Line]) -> None:
    for line in lines:
        if isinstance(line, Table):
            progress.table(line.headings, line.rows)
        elif isinstance(line, Document):
            progress.show_document(line)
        else:
            progress.show_text(line)
