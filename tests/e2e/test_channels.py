from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Command


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.needs("git")
@pytest.mark.network
def test_who_and_from_which_commit_is_told(project: Path, command: Command) -> None:
    """History names the actor, provenance the commit of the specs and whether they differ."""
    git = ["git", "-c", "user.name=Ann", "-c", "user.email=ann@example.org", "-C", str(project)]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "specs"]):
        subprocess.run([*git, *arguments], check=True)
    commit = subprocess.run(
        [*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()
    who = {"GIT_AUTHOR_NAME": "Ann", "GIT_AUTHOR_EMAIL": "ann@example.org"}
    nobody = dict.fromkeys(("GITHUB_ACTOR", "GITLAB_USER_LOGIN", "TEMPLATE_ACTOR"), "")
    done = command("build", "light", "--target", "local", cwd=project, **who, **nobody)
    assert done.returncode == 0, done.stderr
    told = json.loads(command("show", "light", "--json", cwd=project).stdout)
    assert told["provenance"]["commit"] == commit
    assert told["provenance"]["dirty"] is False
    assert told["history"][-1]["by"] == "Ann <ann@example.org>"
    spec = project / "variants" / "light.toml"
    spec.write_text(spec.read_text().replace("'light'", "'light'\ndescription = 'x'", 1))
    again = command("build", "light", "--target", "local", cwd=project, TEMPLATE_ACTOR="a robot")
    assert again.returncode == 0, again.stderr
    told = json.loads(command("show", "light", "--json", cwd=project).stdout)
    assert told["provenance"]["dirty"] is True
    assert told["history"][-1]["by"] == "a robot"
    for arguments, said in (
        (["rollback", "light", "--reason", "slower"], "channel stable of light on local: "),
        (["promote", "light", "--channel", "prod"], "channel prod of light on local: nothing → "),
        (
            ["promote", "light", "--channel", "prod"],
            "channel prod of light on local already points",
        ),
        (["revoke", "light", "prod", "--reason", "bad"], "revoked as of 2"),
        (["restore", "light", "prod"], "restored: local:light@sha256-"),
    ):
        done = command(*arguments, cwd=project, **nobody)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(said)
    checked = command("doctor", "--json", cwd=project)
    assert "no" not in [one["state"] for one in json.loads(checked.stdout)]
