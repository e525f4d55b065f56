from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Command


@pytest.mark.network
def test_hold_from_the_command_line(project: Path, command: Command) -> None:
    """rollback, build, list, outdated, show, unhold: each says what is held, since when and why."""

    def run(*arguments: str, code: int = 0) -> str:
        done = command(*arguments, cwd=project)
        assert done.returncode == code, done.stderr
        return done.stdout

    run("build", "light")
    spec = project / "variants" / "light.toml"
    spec.write_text(spec.read_text().replace("'light'", "'light'\ndescription = 'x'", 1))
    run("build", "light")
    told = run("rollback", "light", "--reason", "slower")
    assert told.splitlines()[1] == (
        "it is on hold: builds do not move it until `template-builder unhold light --channel"
        " stable --target local`, `build --release` or `promote`"
    )
    (row,) = json.loads(run("list", "--json"))
    why = f"held since {row['held']['at']} by {row['held']['by']}: slower"
    assert f"  here; {why}  " in run("list")
    assert f"\nChannel stable is {why}\n" in run("show", "light")
    assert f"channel stable is {why}" in run("plan", "light", "--frozen", "--exit-code")
    assert (
        f"channel stable of light is {why}; it does not point at this build until `template-builder"
        " promote light --channel stable --target local` or `build --release`\n"
    ) in run("build", "light")
    assert "light     held   0 days  nothing would change" in run("outdated", "light")
    assert run("resolve", "light").strip() == row["ref"]
    assert run("unhold", "light") == (
        f"channel stable of light on local is no longer on hold (it was {why})\n"
    )
    assert run("unhold", "light") == "channel stable of light on local is not on hold\n"
    run("build", "light")
    assert run("resolve", "light").strip() != row["ref"]
    run("rollback", "light")
    run("build", "light", "--release")
    assert run("resolve", "light").strip() != row["ref"]
    assert json.loads(run("list", "--json"))[0]["held"] is None
