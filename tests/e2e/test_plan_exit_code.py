from __future__ import annotations

from pathlib import Path

import pytest

from builder import record
from builder.project import Project
from tests.conftest import Command


@pytest.mark.network
def test_plan_ends_by_what_there_is_to_do(project: Path, command: Command) -> None:
    """0 when there is nothing to do, 2 when there is, 31 when a variant is blocked, whatever the
    reason; also with --quiet, which keeps the one line that says why."""
    quiet = ["plan", "--exit-code", "--quiet"]
    command("lock", cwd=project)
    done = command(*quiet, "--frozen", cwd=project)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "to do: build light (never built on local), build other (never built on local)\n"
    )
    done = command("outdated", "light", "--quiet", cwd=project)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "outdated: light (never built on local)\n"
    assert command("build", "--frozen", cwd=project).returncode == 0
    done = command(*quiet, "--frozen", cwd=project)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    def blocked(*arguments: str, **variables: str) -> str:
        done = command(*quiet, *arguments, cwd=project, **variables)
        assert (done.returncode, done.stdout) == (31, "")
        return done.stderr

    assert blocked("--frozen", "--target", "e2b").startswith(
        "error: 2 of 2 templates cannot be built on e2b:\n"
        "  light: target `e2b` needs an account: `E2B_API_KEY` is not set\n"
    )
    place = Project.find(project)
    content = record.Content.parse("package", "six>=1")
    record.revoke(place.registry, content, reason="a hole", by="x")
    spec = project / "variants" / "light.toml"
    before = spec.read_text()
    spec.write_text(before.replace("'light'", "'light'\ndescription = 'x'", 1))
    command("render", cwd=project)
    # Something to do for one, and another one that is blocked: blocked goes first.
    assert (
        "1 of 2 templates cannot be built on local:\n  other: `other` contains package six>=1"
        in (blocked("--frozen"))
    )
    record.restore(place.registry, content, by="x")
    spec.write_text(before.replace("packages = ['idna']", "packages = ['idna==0.0.1']"))
    assert "1 of 2 templates cannot be built on local:\n  light: " in blocked()
