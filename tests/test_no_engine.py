from __future__ import annotations

from pathlib import Path

from builder import errors
from tests.conftest import Command

NOWHERE = {"DOCKER_HOST": "unix:///nowhere/docker.sock"}
TOLD = (
    "error: no Docker engine answers at unix:///nowhere/docker.sock\n\n"
    "hint: install one (docs.docker.com/engine/install), start it, or name another one with"
    " DOCKER_HOST or `docker context use`\n"
)


def test_precheck_without_an_engine(project: Path, command: Command) -> None:
    """Without a Docker engine precheck says so, and how to get one, before it does anything."""
    found = command("precheck", cwd=project, **NOWHERE)
    assert (found.returncode, found.stderr) == (errors.EngineUnavailableError.exit_code, TOLD)
    assert not (project / "generated").exists()
