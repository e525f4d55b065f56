"""An interrupt whose exception a library wraps, or Python ignores."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from builder import errors
from tests.conftest import ROOT

# What pydantic does with an exception that is raised while it builds a schema.
WRAPPING = """
import os, signal, sys
import builder.cli, builder.cli.app
def run(arguments):
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException as error:
        raise TypeError("Error building a validator") from error
builder.cli.app.run = run
builder.cli.main()
"""

# Nothing can be raised from a destructor: Python prints the exception, and goes on.
IGNORING = """
import os, signal, time
import builder.cli, builder.cli.app
class Destroyed:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
def run(arguments):
    Destroyed()
    time.sleep(30)
    return 0
builder.cli.app.run = run
builder.cli.main()
"""


@pytest.mark.parametrize("program", [WRAPPING, IGNORING], ids=["wrapped", "ignored"])
def test_wrapped_or_ignored_interrupt_ends_the_command(program: str) -> None:
    """A signal during an import or a destructor ends the command with its exit code and one
    message."""
    ended = subprocess.run(
        [sys.executable, "-c", program, "plan", "--json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert ended.returncode == errors.InterruptedRunError.exit_code
    assert json.loads(ended.stdout)["error"]["kind"] == "InterruptedRunError"
    assert "Traceback" not in ended.stderr
