from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Command


@pytest.mark.network
def test_every_command_obeys_the_variable(project: Path, command: Command) -> None:
    """Commands that build, look and clean up take the target that TEMPLATE_TARGET names."""
    cloud = {"TEMPLATE_TARGET": "e2b"}
    local = {"TEMPLATE_TARGET": "local", "E2B_API_KEY": "e2b_x"}
    first = "target local: set by TEMPLATE_TARGET"
    command("lock", cwd=project)
    for arguments in (["build", "light", "--frozen"], ["plan"], ["verify", "light"], ["outdated"]):
        done = command(*arguments, cwd=project, **local)
        assert done.stderr.splitlines()[0].endswith(first), done.stderr
        assert (
            command(*arguments, cwd=project, **cloud)
            .stderr.splitlines()[0]
            .endswith("target e2b: set by TEMPLATE_TARGET")
        )
    for arguments in (["resolve", "light"], ["show", "light"], ["promote", "light"]):
        done = command(*arguments, cwd=project, **cloud)
        assert done.stderr.startswith(
            "error: template `light` is not built for target `e2b`, which TEMPLATE_TARGET names;"
        )
        assert command(*arguments, cwd=project, **local).returncode == 0
    assert first in command("gc", "--dry-run", cwd=project, **local).stderr
    assert command("adopt", "x", "abc", cwd=project, **local).returncode == 5


@pytest.mark.network
def test_plan_on_this_machine_says_nothing_of_e2b(project: Path, command: Command) -> None:
    """Steps on E2B are in a plan for E2B, and in JSON; a plan for this machine leaves them out."""
    for target, there in (("local", False), ("e2b", True)):
        done = command("plan", "--target", target, cwd=project)
        assert done.returncode == 0, done.stderr
        assert ("steps on E2B: light: " in done.stdout) is there
