from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from builder import progress
from builder.events import Event
from builder.logs import Log, latest

EVENTS = [
    Event(kind="note", text="target local: asked for"),
    Event(kind="step", text="resolving"),
    Event(kind="warning", text="no digest"),
    Event(kind="step", variant="a", text="installing"),
    Event(kind="detail", variant="a", text="Downloading torch (900.0MiB)"),
    Event(kind="done", variant="a", text="built", seconds=1.25),
    Event(kind="failed", variant="b", text="no [bold]luck[/bold]"),
]


def test_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """Where nobody watches, every event but details is one line, with the time and the variant."""
    with progress.reporting(quiet=False, as_json=False) as report:
        for event in EVENTS:
            report(event)
    assert [line.replace("    0.0s ", "") for line in capsys.readouterr().err.splitlines()] == [
        "target local: asked for",
        "resolving",
        "warning: no digest",
        "a: installing",
        "a: built in 1.2 s",
        "b: failed: no [bold]luck[/bold]",
    ]


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """For machines, every event is one JSON object on a line of its own."""
    with progress.reporting(quiet=False, as_json=True) as report:
        for event in EVENTS:
            report(event)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["kind"] for line in lines] == [event.kind for event in EVENTS]
    assert lines[5] == {"kind": "done", "variant": "a", "text": "built", "seconds": "1.250"}


def test_quiet_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    """--quiet leaves no progress at all."""
    with progress.reporting(quiet=True, as_json=False) as report:
        for event in EVENTS:
            report(event)
    assert capsys.readouterr() == ("", "")


def test_table_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Outside a terminal a table is aligned text without frames, colours or trailing space."""
    progress.table(["name", "x"], [["a", "[red]1[/red]"], ["longer", ""]])
    assert capsys.readouterr().out == "name    x\na       [red]1[/red]\nlonger\n"


LIVE = """
import sys, time
sys.path.insert(0, sys.argv[1])
from builder import progress
from builder.events import Event
with progress.reporting(quiet=False, as_json=False) as report:
    report(Event(kind="note", text="target local: [asked] for"))
    report(Event(kind="step", variant="a", text="installing"))
    report(Event(kind="detail", variant="a", text="Downloading torch (900.0MiB)"))
    report(Event(kind="detail", variant="a", text="Downloading numpy (16.0MiB)"))
    report(Event(kind="detail", variant="a", text=" Downloaded numpy"))
    time.sleep(0.5)
    report(Event(kind="done", variant="a", text="built", seconds=1.0))
    time.sleep(0.3)
progress.table(["name"], [["[b]a[/b]"]])
"""


def test_live_display_on_a_terminal(tmp_path: Path) -> None:
    """On a terminal one line a variant shows the step and what is still being downloaded."""
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", LIVE, str(Path(__file__).parent.parent)],
        stdout=child,
        stderr=child,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(child)
    seen = b""
    while True:
        try:
            chunk = os.read(parent, 4096)
        except OSError:
            break
        if not chunk:
            break
        seen += chunk
    os.close(parent)
    assert process.wait() == 0, seen.decode()
    text = seen.decode()
    assert "target local: [asked] for" in text
    assert "downloading torch (900.0MiB)" in text
    assert "installing" in text
    assert "built" in text
    assert "[b]a[/b]" in text


def test_log_keeps_what_happened(tmp_path: Path) -> None:
    """A log holds its lines with their times, and the error that ended the attempt."""
    with pytest.raises(ValueError, match="odd"), Log(tmp_path, target="local") as log:
        log.line("first")
        raise ValueError("odd")
    found = latest(tmp_path)
    assert found == log.path
    lines = [line[10:] for line in log.path.read_text().splitlines()]
    assert lines[:3] == ["first", "ValueError: odd", "Traceback (most recent call last):"]


def test_old_logs_go(tmp_path: Path) -> None:
    """The newest twenty logs of a template are kept."""
    for number in range(25):
        with Log(tmp_path, target="local") as log:
            log.line(str(number))
    kept = sorted(tmp_path.glob("*.log"))
    assert len(kept) == 20
    assert "24" in kept[-1].read_text()
