"""Run the program from a shell."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

PROGRAM = f"{shlex.quote(sys.executable)} -m builder"


def bash(script: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a script in bash, where a pipe fails with the exit code of its last failing command."""
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=os.environ | variables,
    )
