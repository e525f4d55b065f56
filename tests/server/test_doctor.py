from __future__ import annotations

import re
from pathlib import Path

import pytest

from builder.cli import doctor
from builder.cli.doctor import Finding
from builder.errors import TargetUnavailableError
from tests.conftest import Command
from tests.support.clouds import Place
from tests.support.e2b_server import Server
from tests.support.e2b_server.faults import Fault

pytestmark = pytest.mark.usefixtures("local_cache")


def targets(project: Path) -> dict[str, Finding]:
    """What doctor says of the targets of a project."""
    return {f.what: f for f in doctor.examine(project) if f.what.startswith("target ")}


def test_without_a_key_nothing_is_wrong(project: Path) -> None:
    """Whoever works on `local` needs no account, and is told so without an error."""
    found = targets(project)
    assert {what: (f.state, f.found) for what, f in found.items()} == {
        "target e2b": ("-", "E2B_API_KEY is not set; only this target needs it"),
        "target local": ("ok", "needs no account"),
    }
    assert [f.error for f in found.values()] == [None, None]


def test_account_accepts_the_key(project: Path, cloud: Server) -> None:
    """With a key, doctor asks E2B by one small request that the key opens, and builds nothing."""
    found = targets(project)["target e2b"]
    assert (found.state, found.found) == ("ok", "E2B_API_KEY is set; the key is accepted")
    assert cloud.front.requests == ["GET /v2/templates"]
    assert cloud.problems == []
    assert cloud.builds() == []


@pytest.mark.network
@pytest.mark.usefixtures("with_four")
def test_team_is_told_where_it_is_known(place: Place, cloud: Server) -> None:
    """Where the account has a template, its name says which team the key belongs to."""
    found = targets(place.folder)["target e2b"]
    (team,) = {build.team.slug for build in cloud.builds()}
    assert found.found == f"E2B_API_KEY is set; the key is accepted, team {team}"


def test_key_that_is_refused_is_an_error(
    project: Path, cloud: Server, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused key is told by its variable, in the words of the API, and never shown."""
    monkeypatch.setenv("E2B_API_KEY", "e2b_canary")
    done = command("doctor", cwd=project)
    assert done.returncode == TargetUnavailableError.exit_code
    words = "E2B refused the key of target `e2b`: 401: Invalid API key"
    assert re.search(rf"no +target e2b +E2B_API_KEY is set; {re.escape(words)}", done.stdout)
    assert f"error: {words}, please visit https://e2b.dev/docs/api-key" in done.stderr
    assert "\n\nhint: set `E2B_API_KEY` to a key of the account\n" in done.stderr
    assert "canary" not in done.stdout + done.stderr
    assert cloud.front.requests == ["GET /v2/templates"]


def test_every_target_is_asked_for_its_own_account(
    project: Path, cloud: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A configured target is asked with its own key; a key that is blank counts as none."""
    (project / "pyproject.toml").write_text(
        '[tool.template-builder.targets.staging]\nkind = "e2b"\napi-key-env = "STAGING_KEY"\n'
    )
    monkeypatch.setenv("STAGING_KEY", cloud.key)
    monkeypatch.setenv("E2B_API_KEY", " ")
    found = targets(project)
    assert found["target e2b"].state == "-"
    assert found["target staging"].found == "STAGING_KEY is set; the key is accepted"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (
            Fault("GET /v2/templates", "status", code=403, times=9),
            "E2B refused the key of target `e2b`: 403: ",
        ),
        (
            Fault("GET /v2/templates", "status", code=500, times=9),
            "asking for the account failed: 500: ",
        ),
        (
            Fault("GET /v2/templates", "status", code=400, times=9),
            "asking for the account was refused: 400: ",
        ),
    ],
    ids=["forbidden", "broken", "refused"],
)
def test_what_the_api_says_is_reported(
    project: Path, cloud: Server, fault: Fault, words: str
) -> None:
    """A request that fails is a finding in the API's words, and the other findings are there."""
    cloud.front.faults.append(fault)
    found = targets(project)["target e2b"]
    assert found.state == "no"
    assert found.found.startswith(f"E2B_API_KEY is set; {words}")
    assert found.error
    assert found.error.message.startswith(words)
    assert 1 <= len(cloud.front.requests) <= 2
    assert targets(project)["target local"].state == "ok"
