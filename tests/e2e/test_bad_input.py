from __future__ import annotations

import json
from pathlib import Path

import pytest

from builder import errors
from tests.conftest import Command


@pytest.mark.network
def test_registry_behind_a_link_stays_there(
    project: Path, command: Command, tmp_path: Path
) -> None:
    """What registry.json links to is written, and the link stays a link."""
    shared = tmp_path / "shared.json"
    shared.write_text('{"version": 1, "templates": {}}')
    (project / "registry.json").symlink_to(shared)
    assert command("build", "light", cwd=project).returncode == 0
    assert (project / "registry.json").is_symlink()
    assert "light" in json.loads(shared.read_text())["templates"]


@pytest.mark.network
def test_extra_that_a_package_does_not_have(project: Path, command: Command) -> None:
    """A misspelt extra, which uv lets pass with a warning, is an error with file and line."""
    spec = project / "variants" / "light.toml"
    spec.write_text(
        "schema = 1\nname = 'light'\nextends = '_base'\n[python]\npackages = ['idna[sokcs]']\n"
    )
    found = command("lock", "light", cwd=project)
    assert found.returncode == errors.LockConflictError.exit_code
    first = found.stderr.splitlines()[-3]
    assert first.startswith('error: stage `light`: "idna[sokcs]" at variants/light.toml:5 requires')


@pytest.mark.network
def test_backend_that_nobody_has_heard_of(project: Path, command: Command) -> None:
    """A PyTorch backend that uv does not know is an error with file, line and near match."""
    spec = project / "variants" / "light.toml"
    spec.write_text(
        "schema = 1\nname = 'light'\nextends = '_base'\n"
        "[python]\npackages = ['idna']\ntorch-backend = 'cu999'\n"
    )
    found = command("lock", "light", cwd=project)
    assert found.returncode == errors.SpecError.exit_code
    assert (
        "variants/light.toml:6:1: `python.torch-backend`: uv knows no PyTorch backend 'cu999'"
        in found.stderr
    )
