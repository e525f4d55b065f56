from __future__ import annotations

import re
from pathlib import Path

import pytest

from builder import errors
from tests.conftest import OTHER, Command


@pytest.mark.network
def test_an_error_in_a_plan_is_told_once(project: Path, command: Command) -> None:
    """The plan's table has the first line of an error, and standard error all of it, once."""
    (project / "variants" / "other.toml").write_text(OTHER.replace("'six'", "'six==0'"))
    planned = command("plan", "other", cwd=project)
    assert planned.returncode == errors.LockConflictError.exit_code
    rows = planned.stdout.splitlines()
    assert len(rows) == 2
    assert re.match(r"other     blocked  -       \S", rows[1])
    assert not rows[1].endswith(":")
    assert planned.stderr.count("error: ") == 1


@pytest.mark.network
def test_a_cache_folder_that_is_not_utf_8(project: Path, command: Command) -> None:
    """An environment is not made where uv cannot, and the error says why and what to set."""
    odd = project / "caf\udce9"
    built = command("build", "light", cwd=project, TEMPLATE_BUILDER_CACHE_DIR=str(odd))
    assert built.returncode == errors.StorageError.exit_code
    assert built.stderr.endswith(
        f"error: environments cannot be kept in `{project}/caf\\xe9/environments`: its name is not"
        " UTF-8\n\nhint: set TEMPLATE_BUILDER_CACHE_DIR to a folder whose name is\n"
    )
