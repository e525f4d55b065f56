from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from builder import errors
from builder.system import guard
from tests.conftest import ROOT
from tests.support.shell import PROGRAM, bash

# Works for some time, and reports more than one line while it does.
WORK = """
import time
from pathlib import Path
from builder.cli.output import Output
from builder.cli import app, main
from builder.system.events import Event

def work() -> None:
    with Output().progress() as report:
        report(Event(kind="note", text="target local: requested"))
        for number in range(20):
            report(Event(kind="step", variant="light", text=f"step {number}"))
            time.sleep(0.1)
    Path("done").touch()

program = app.program()
program.command()(work)
app.program = lambda _first: program
main()
"""


def hears_of_hang_ups() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup


@pytest.mark.slow
def test_the_exit_code_of_a_failure_outlives_the_reader(project: Path) -> None:
    """A command that fails ends with the code of its failure, although nobody can be told."""
    (project / "variants" / "light.toml").write_text("schema = 1\nnmae = 'x'\n")
    for reader in ("2>/dev/full", "2> >(true)"):
        ended = bash(f"{PROGRAM} validate light {reader}", project)
        assert ended.returncode == errors.SpecError.exit_code


@pytest.mark.slow
def test_a_full_disk_behind_the_output_is_an_error(project: Path) -> None:
    """What was asked for and cannot be written is an error, once; a closed pipe is none."""
    full = bash(f"{PROGRAM} schema --json >/dev/full", project)
    assert (full.returncode, full.stderr) == (
        errors.StorageError.exit_code,
        "error: the disk is full: writing the output needed more space\n\n"
        "hint: free some space and run the same command again; finished work is kept\n",
    )
    pipe = bash(f"{PROGRAM} schema --json | true", project)
    assert (pipe.returncode, pipe.stderr) == (0, "")
    both = bash(f"{PROGRAM} schema --json >/dev/full 2>&1", project)
    assert both.returncode == errors.StorageError.exit_code


def test_output_that_another_program_made_non_blocking(project: Path) -> None:
    """A pipe that answers "not now" is waited for, and every byte arrives."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    large = project / ".builder" / "logs" / "light"
    large.mkdir(parents=True)
    (large / "20260101T000000.000000Z-local.log").write_text("x\n" + "y" * 300_000)
    process = subprocess.Popen(
        [sys.executable, "-m", "builder", "logs", "light"],
        stdout=writing,
        stderr=subprocess.PIPE,
        cwd=project,
    )
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        text = pipe.read()
    assert process.communicate()[1] == b""
    assert process.returncode == 0
    assert text.endswith(b"x\n" + b"y" * 300_000 + b"\n")


@pytest.mark.slow
def test_a_terminal_that_was_closed(project: Path) -> None:
    """A terminal that vanishes under the live display ends the display, not the work."""
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", WORK, "work"],
        stdin=child,
        stdout=child,
        stderr=child,
        cwd=project,
        env=os.environ | {"TERM": "xterm", "PYTHONPATH": str(ROOT)},
    )
    os.close(child)
    os.read(parent, 1)
    os.close(parent)
    assert process.wait() == 0
    assert (project / "done").exists()


@pytest.mark.slow
def test_a_hang_up_ends_as_an_interrupt_does(project: Path) -> None:
    """The hang-up of a terminal cleans up and ends with the code of an interrupt, unless it is
    ignored, as under nohup."""
    for prefix, code in ([], errors.InterruptedRunError.exit_code), (["nohup"], 0):
        process = subprocess.Popen(
            [*prefix, sys.executable, "-c", WORK, "work"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=project,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            preexec_fn=hears_of_hang_ups,  # noqa: PLW1509 - no thread runs in these tests
        )
        assert process.stderr
        while b"target local" not in process.stderr.readline():
            pass
        process.send_signal(signal.SIGHUP)
        errs = process.communicate()[1]
        assert process.returncode == code, errs
        assert b"Traceback" not in errs


def test_closed_descriptors_lead_nowhere() -> None:
    """Of descriptors 0 to 2, those that are closed lead to /dev/null, for children, too; the
    others stay what they are."""
    code = (
        "import os, subprocess, sys; sys.path.insert(0, sys.argv[1]); import guard\n"
        "os.close(0); os.close(2); guard.open_standard_descriptors()\n"
        "subprocess.run(['readlink', '/proc/self/fd/0', '/proc/self/fd/2'], check=True)\n"
    )
    folder = os.path.dirname(guard.__file__)
    done = subprocess.run(
        [sys.executable, "-c", code, folder], capture_output=True, text=True, check=True
    )
    assert done.stdout == "/dev/null\n/dev/null\n"
