"""What a person sees while the program works and when it is done. The only owner of rich.

Events go to standard error: a live display on a terminal, plain lines elsewhere, JSON lines on
request. Tables are data and go to standard output. Whatever is shown passes through here, so that
hidden characters in it are made visible in one place.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from builder.errors import from_os_error
from builder.errors.visible import HIDDEN, one_line, visible
from builder.system.events import Event, Reporter, discard

__all__ = [
    "duration",
    "interactive",
    "json_shown",
    "reporting",
    "show_document",
    "show_json",
    "show_message",
    "show_text",
    "size",
    "table",
]

_HIDDEN_IN_JSON = re.compile(f"[{HIDDEN}]")


@contextlib.contextmanager
def reporting(*, quiet: bool, as_json: bool) -> Iterator[Reporter]:
    """The reporter that fits where standard error goes."""
    if quiet:
        yield discard
    elif as_json:
        yield _json_line
    elif sys.stderr.isatty():
        with _Live() as live:
            yield live
    else:
        yield _Plain()


_json_shown = False


def json_shown() -> bool:
    """Whether standard output holds its one JSON value already."""
    return _json_shown


def show_json(value: Any) -> None:
    """Write a value to standard output as JSON."""
    global _json_shown  # noqa: PLW0603 - the process has one standard output
    _json_shown = True
    show_document(_json(value, indent=2))


def show_text(text: str) -> None:
    """Write one line to standard output."""
    _write(f"{one_line(text)}\n")


def show_document(text: str) -> None:
    """Write lines to standard output."""
    shown = visible(text)
    _write(shown if shown.endswith("\n") or not shown else f"{shown}\n")


def show_message(text: str) -> None:
    """Write lines for a person to standard error."""
    sys.stderr.write(f"{visible(text)}\n")


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a table to standard output: drawn on a terminal, aligned columns elsewhere."""
    cells = [[one_line(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for heading in headings:
            drawn.add_column(Text(one_line(heading)), overflow="fold")
        for row in cells:
            drawn.add_row(*map(Text, row))
        Console().print(drawn)
        return
    lines = [[one_line(heading) for heading in headings], *cells]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for row in lines:
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        show_text("  ".join(padded).rstrip())


def _write(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        raise from_os_error(error, "writing the output") from error


def _json(value: Any, *, indent: int | None = None) -> str:
    """JSON in which no character is hidden."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return _HIDDEN_IN_JSON.sub(lambda match: json.dumps(match[0])[1:-1], text)


def interactive() -> bool:
    """Whether a person sits there, who can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def size(count: int) -> str:
    """Bytes for people: `48 MiB`, `1,234 MiB`."""
    return f"{count / 2**20:,.0f} MiB"


def duration(seconds: float) -> str:
    """Seconds as people read them."""
    if seconds >= 0.1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1e3:.1f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} µs"


def _json_line(event: Event) -> None:
    fields: dict[str, Any] = {
        "time": event.time.astimezone(dt.UTC).isoformat(timespec="milliseconds"),
        "kind": event.kind,
        "variant": event.variant,
        "text": event.text,
    }
    if event.seconds is not None:
        fields["seconds"] = round(event.seconds, 3)
    sys.stderr.write(_json(fields) + "\n")


class _Plain:
    """One line an event, details left out: for files, pipes and CI."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def __call__(self, event: Event) -> None:
        if event.kind == "detail":
            return
        elapsed = time.monotonic() - self._start
        subject = f"{event.variant}: " if event.variant else ""
        words = {"warning": "warning: ", "failed": "failed: "}.get(event.kind, "")
        taken = f" in {event.seconds:.1f} s" if event.seconds is not None else ""
        line = f"{subject}{words}{event.text}{taken}"
        show_message(one_line(line if event.kind == "note" else f"{elapsed:7.1f}s {line}"))


@dataclass
class _Row:
    started: float
    text: str = ""
    detail: str = ""
    ended: float | None = None
    style: str = "cyan"
    downloads: set[str] = field(default_factory=set)


class _Live:
    """A line a variant, redrawn in place: what it is doing, for how long, and the last detail."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(stderr=True)
        self._lock = threading.Lock()
        self._rows: dict[str, _Row] = {}
        self._live = Live(
            console=self._console, get_renderable=self._draw, refresh_per_second=8, transient=True
        )

    def __enter__(self) -> _Live:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __call__(self, event: Event) -> None:
        if event.variant is None:
            style = "yellow" if event.kind == "warning" else "dim" if event.kind == "step" else ""
            from rich.text import Text

            self._console.print(Text(one_line(event.text), style=style))
            return
        with self._lock:
            row = self._rows.setdefault(event.variant, _Row(started=time.monotonic()))
            if event.kind == "detail":
                row.detail = _downloads(row, event.text) or event.text
                return
            row.text, row.detail = event.text, ""
            if event.kind in ("done", "failed"):
                row.ended = time.monotonic()
                row.style = "green" if event.kind == "done" else "red"

    def _draw(self) -> Any:
        from rich.table import Table
        from rich.text import Text

        drawn = Table.grid(padding=(0, 2))
        drawn.add_column(no_wrap=True)
        drawn.add_column(no_wrap=True, justify="right")
        drawn.add_column(no_wrap=True)
        drawn.add_column(no_wrap=True, overflow="ellipsis", style="dim")
        with self._lock:
            for name, row in sorted(self._rows.items()):
                elapsed = (row.ended or time.monotonic()) - row.started
                drawn.add_row(
                    Text(one_line(name), style=row.style),
                    f"{elapsed:.0f} s",
                    Text(one_line(row.text)),
                    Text(one_line(row.detail)),
                )
        return drawn


def _downloads(row: _Row, line: str) -> str | None:
    """What is still under way, from "Downloading torch (900MiB)" and " Downloaded torch"."""
    word, _, rest = line.strip().partition(" ")
    if word == "Downloading":
        row.downloads.add(rest)
    elif word == "Downloaded":
        row.downloads = {one for one in row.downloads if one.split(" ")[0] != rest}
    else:
        return None
    return f"downloading {', '.join(sorted(row.downloads))}" if row.downloads else "unpacking"
