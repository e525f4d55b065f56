from __future__ import annotations

import datetime as dt
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from builder.cli.output import Output, Result, Table
from builder.system.events import Event
from builder.system.logs import Log, latest
from tests.conftest import ROOT

EVENTS = [
    Event(kind="note", text="target local: requested"),
    Event(kind="step", text="resolving"),
    Event(kind="warning", text="no digest"),
    Event(kind="step", variant="a", text="installing"),
    Event(kind="detail", variant="a", text="Downloading torch (900.0MiB)"),
    Event(kind="done", variant="a", text="built", seconds=1.25),
    Event(kind="failed", variant="b", text="no [bold]luck[/bold]"),
]


def test_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """Where nobody watches, every event but details is one line, with the time and the variant."""
    with Output().progress() as report:
        for event in EVENTS:
            report(event)
    assert [line.replace("    0.0s ", "") for line in capsys.readouterr().err.splitlines()] == [
        "target local: requested",
        "resolving",
        "warning: no digest",
        "a: installing",
        "a: built in 1.2 s",
        "b: failed: no [bold]luck[/bold]",
    ]


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """For machines, every event is one JSON object on a line of its own, with its time in UTC."""
    with Output(as_json=True).progress() as report:
        for event in EVENTS:
            report(event)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["kind"] for line in lines] == [event.kind for event in EVENTS]
    times = [dt.datetime.fromisoformat(line.pop("time")) for line in lines]
    assert times == sorted(times)
    assert times[0].utcoffset() == dt.timedelta(0)
    assert lines[5] == {"kind": "done", "variant": "a", "text": "built", "seconds": 1.25}


def test_quiet_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    """--quiet leaves no progress at all."""
    with Output(quiet=True).progress() as report:
        for event in EVENTS:
            report(event)
    assert capsys.readouterr() == ("", "")


def test_table_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Outside a terminal a table is aligned text without frames, colours or trailing space."""
    Output().text([Table(headings=["name", "x"], rows=[["a", "[red]1[/red]"], ["longer", ""]])])
    assert capsys.readouterr().out == "name    x\na       [red]1[/red]\nlonger\n"


LIVE = """
import sys, time
sys.path.insert(0, sys.argv[1])
from builder.cli.output import Output, Table
from builder.system.events import Event
with Output().progress() as report:
    report(Event(kind="note", text="target local: [asked] for"))
    report(Event(kind="step", variant="a", text="installing"))
    report(Event(kind="detail", variant="a", text="Downloading torch (900.0MiB)"))
    report(Event(kind="detail", variant="a", text="Downloading numpy (16.0MiB)"))
    report(Event(kind="detail", variant="a", text=" Downloaded numpy"))
    time.sleep(0.5)
    report(Event(kind="done", variant="a", text="built", seconds=1.0))
    time.sleep(0.3)
Output().text([Table(headings=["name"], rows=[["[b]a[/b]"]])])
"""


def on_a_terminal(code: str) -> str:
    """What a terminal of 100 columns receives from a Python program."""
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(ROOT)],
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
    return seen.decode()


def test_live_display_on_a_terminal() -> None:
    """On a terminal one line a variant shows the step and what is still being downloaded."""
    text = on_a_terminal(LIVE)
    assert "target local: [asked] for" in text
    assert "downloading torch (900.0MiB)" in text
    assert "installing" in text
    assert "built" in text
    assert "[b]a[/b]" in text


ODD = [":warning: a:key:b \\", "a:100:b", "[b]x[/b]", "1 2.5 'x' None http://x/"]
EVIL = "\x1b]0;PWNED\a\x1b[2J\r\nbuild ok\u202e\u2066\x9b\u2028\ud83d.\udcff\U000e0041"
SHOWN = "\\x1b]0;PWNED\\x07\\x1b[2J\\r\\nbuild ok\\u202e\\u2066\\x9b\\u2028\\ud83d.\\xff\\U000e0041"


def test_cells_are_exactly_the_text_on_a_terminal() -> None:
    """On a terminal no part of a cell or of an event is taken for markup, an emoji or a number."""
    code = f"""
import sys
sys.path.insert(0, sys.argv[1])
from builder.cli.output import Output, Table
from builder.system.events import Event
Output().text([Table(headings=["a:key:b"], rows=[[cell] for cell in {ODD!r}])])
with Output().progress() as report:
    for text in {ODD!r}:
        report(Event(kind="note", text=text))
        report(Event(kind="step", variant=text, text=text))
        report(Event(kind="detail", variant=text, text=text))
"""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", on_a_terminal(code))
    lines = [line.strip() for line in text.splitlines() if line.strip(" ─")]
    assert lines[:9] == ["a:key:b", *ODD, *ODD]
    assert {re.sub(" {2,}", "  ", line) for line in lines[-4:]} == {
        f"{text}  0 s  {text}  {text}" for text in ODD
    }


def test_hidden_characters_are_visible_on_a_terminal() -> None:
    """No control character, bidirectional mark or line break of a text reaches a terminal."""
    code = f"""
import sys
sys.path.insert(0, sys.argv[1])
from builder.cli.output import Output, Table
from builder.system.events import Event
evil = {EVIL!a}
Output().text([Table(headings=[evil], rows=[[evil]]), evil])
with Output().progress() as report:
    report(Event(kind="note", text=evil))
    report(Event(kind="step", variant=evil, text=evil))
"""
    text = on_a_terminal(code)
    for sequence in ("\x1b]", "\x1b[2J", "\a", "\u202e", "\u2066", "\x9b", "\u2028", "\U000e0041"):
        assert sequence not in text
    assert text.count(SHOWN) == 4  # heading, cell, line, note
    assert "\nbuild ok" not in text.replace("\r", "")


def test_hidden_characters_are_visible_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    """In a file or a pipe they are escapes, too, in JSON those of JSON."""
    Output().text([Table(headings=["reason"], rows=[[EVIL]]), EVIL])
    with Output().progress() as report:
        report(Event(kind="note", text=EVIL))
    out, err = capsys.readouterr()
    assert (out, err) == (f"reason\n{SHOWN}\n{SHOWN}\n", f"{SHOWN}\n")

    Output(as_json=True).show(Result(json={EVIL: [EVIL, "ü€"]}))
    with Output(as_json=True).progress() as report:
        report(Event(kind="note", text=EVIL))
    out, err = capsys.readouterr()
    assert json.loads(out) == {EVIL: [EVIL, "ü€"]}
    assert json.loads(err)["text"] == EVIL
    assert "ü€" in out
    assert all(character.isprintable() or character == "\n" for character in out + err)


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


def test_newest_build_is_not_the_newest_log(tmp_path: Path) -> None:
    """What looked at a build later, and however often, hides no log of a build."""
    with Log(tmp_path, target="local") as build:
        build.line("built")
    for _ in range(25):
        with Log(tmp_path, target="local", kind="verify") as log:
            log.line("verified")
    with Log(tmp_path, target="docker", kind="precheck"):
        pass
    assert latest(tmp_path) == build.path
    assert build.shown_by == f"`template-builder logs {tmp_path.name}`"
    assert log.shown_by == f"`{log.path}`"
    assert len(list(tmp_path.glob("*.verify.log"))) == 20
