"""Folders and files with odd names, and links."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builder import errors
from tests.conftest import LIGHT, Command


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.network
def test_names_with_new_lines_work_or_are_refused(
    project: Path, command: Command, tmp_path: Path, new_cache: Path
) -> None:
    """A project and a cache below folders with new lines, quotes and spaces in their names build
    and resolve; a variant's own file with one is refused."""
    odd_place = tmp_path / "a\nb 'c' \"d\" $e"
    project.rename(odd_place)
    cache = str(new_cache.rename(tmp_path / "ca\nche"))
    built = command(
        "build", "light", "--target", "local", cwd=odd_place, TEMPLATE_BUILDER_CACHE_DIR=cache
    )
    assert built.returncode == 0, built.stderr
    found = command("show", "light", "--json", cwd=odd_place)
    assert json.loads(found.stdout)["name"] == "light"
    checked = command("doctor", cwd=odd_place, TEMPLATE_BUILDER_CACHE_DIR=cache)
    assert checked.returncode == 0, checked.stderr
    (odd_place / "variants" / "x\ny.toml").write_text(LIGHT)
    done = command("validate", cwd=odd_place)
    assert done.returncode == errors.SpecError.exit_code
    assert "the file name of a spec consists of a-z, 0-9, - and _" in done.stderr


@pytest.mark.network
@pytest.mark.network
def test_generated_folder_behind_a_link_is_not_written_through(
    project: Path, command: Command, tmp_path: Path
) -> None:
    """Links within `generated/` are replaced, and what they lead to is left alone."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "Dockerfile").write_text("mine")
    (project / "generated" / "light").mkdir(parents=True)
    (project / "generated" / "light" / "Dockerfile").symlink_to(outside / "Dockerfile")
    assert command("lock", "light", cwd=project).returncode == 0
    assert (outside / "Dockerfile").read_text() == "mine"
    assert not (project / "generated" / "light" / "Dockerfile").is_symlink()
