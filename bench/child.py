"""Run the processes to measure in a clean environment; a failure is an error."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["ROOT", "ChildError", "answer", "cpu_seconds", "environment", "timed"]

ROOT = Path(__file__).parent.parent
# Byte code is part of the measurement; the caller's own settings of the program are not.
_DROPPED = ("PYTHONDONTWRITEBYTECODE", "PYTHONPROFILEIMPORTTIME", "VIRTUAL_ENV", "E2B_API_KEY")
_DROPPED_PREFIX = "TEMPLATE_"


class ChildError(Exception):
    """A process to be measured failed, so its time means nothing."""


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's variables without those that would affect the measurement."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in _DROPPED and not name.startswith(_DROPPED_PREFIX)
    }
    return kept | dict(extra or {})


def timed(
    command: Sequence[str], *, folder: Path = ROOT, extra: Mapping[str, str] | None = None
) -> float:
    """Run a process, and return how many seconds it took. Raises `ChildError`."""
    variables = environment(extra)
    start = time.perf_counter()
    finished = _run(command, folder, variables)
    taken = time.perf_counter() - start
    _check(finished)
    return taken


def cpu_seconds() -> float:
    """Return the CPU seconds used so far by all descendants that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def answer(command: Sequence[str], *, extra: Mapping[str, str] | None = None) -> Any:
    """Run one of our programs, and return the JSON value that it prints. Raises `ChildError`."""
    finished = _run(command, ROOT, environment(extra))
    _check(finished)
    return json.loads(finished.stdout)


def _run(
    command: Sequence[str], folder: Path, variables: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, env=dict(variables), capture_output=True, text=True, check=False
    )


def _check(finished: subprocess.CompletedProcess[str]) -> None:
    if finished.returncode:
        output = "\n".join((finished.stdout + finished.stderr).strip().splitlines()[-20:])
        command = " ".join(finished.args)
        raise ChildError(f"`{command}` ended with {finished.returncode}:\n{output}")
