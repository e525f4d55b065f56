"""Progress on standard error: a live display on a terminal, plain lines elsewhere, or JSON lines.

The only owner of standard error. Hidden characters are always made visible.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import re
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from builder.errors.visible import HIDDEN, one_line, visible
from builder.system.events import Event, Reporter, discard

_HIDDEN_IN_JSON = re.compile(f"[{HIDDEN}]")


@contextlib.contextmanager
def reporting(*, quiet: bool, as_json: bool) -> Iterator[Reporter]:
    """Yield the reporter for where standard error goes."""
    if quiet:
        yield discard
    elif as_json:
        yield _json_line
    elif sys.stderr.isatty():
        with _Live() as live:
            yield live
    else:
        yield _Plain()


def interactive() -> bool:
    """Return whether there is a user who can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def show_message(text: str) -> None:
    """Write a message to standard error."""
    sys.stderr.write(f"{visible(text)}\n")


def json_text(value: object, *, indent: int | None = None) -> str:
    """Return JSON with hidden characters escaped."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return _HIDDEN_IN_JSON.sub(lambda match: json.dumps(match[0])[1:-1], text)


def _json_line(event: Event) -> None:
    fields: dict[str, Any] = {
        "time": event.time.astimezone(dt.UTC).isoformat(timespec="milliseconds"),
        "kind": event.kind,
        "variant": event.variant,
        "text": event.text,
    }
    if event.seconds is not None:
        fields["seconds"] = round(event.seconds, 3)
    sys.stderr.write(f"{json_text(fields)}\n")


class _Plain:
    """One line per event, without details: for files, pipes and CI."""

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
    """A line per template, redrawn in place: its step, for how long, and the last detail."""

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
    """Return the downloads in progress, by "Downloading torch (900MiB)" and " Downloaded torch"."""
    word, _, rest = line.strip().partition(" ")
    if word == "Downloading":
        row.downloads.add(rest)
    elif word == "Downloaded":
        row.downloads = {file for file in row.downloads if file.split(" ")[0] != rest}
    else:
        return None
    return f"downloading {', '.join(sorted(row.downloads))}" if row.downloads else "unpacking"
