"""A signal that a library takes for a fault of its own."""

from __future__ import annotations

import json
import subprocess
import sys

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


def test_interrupt_that_a_library_wraps_ends_as_an_interrupt() -> None:
    """A signal during an import ends the command with its exit code and one message."""
    ended = subprocess.run(
        [sys.executable, "-c", WRAPPING, "plan", "--json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert ended.returncode == errors.InterruptedRunError.exit_code
    assert json.loads(ended.stdout)["error"]["kind"] == "InterruptedRunError"
    assert "Traceback" not in ended.stderr
