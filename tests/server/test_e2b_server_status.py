"""The status of a build, asked of the server of the tests."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.asking import OTHER, Ask, asking, built, of_two_teams, requested
from tests.support.e2b_server import ModelledSteps, Server

RUN = {"type": "RUN", "args": ["true"]}


@pytest.fixture
def server() -> Iterator[Server]:
    """A server with two teams, whose steps fail if they are told to."""
    steps = ModelledSteps(fails=lambda step: "exit status 1" if "false" in step["args"] else None)
    with of_two_teams(steps) as made:
        yield made
        assert made.problems == []


@pytest.fixture
def ask(server: Server) -> Ask:
    return asking(server)


def status_path(made: Any) -> str:
    return f"/templates/{made['templateID']}/builds/{made['buildID']}/status"


def refused(ask: Ask, path: str, *, key: str | None = None) -> tuple[int, str]:
    answer = ask("GET", path, **({"key": key} if key else {}))
    return answer.status_code, answer.json()["message"]


def test_build_that_is_not_there(ask: Ask) -> None:
    """An ID that is none, or that no build of the template has, is 400, not 404."""
    made, absent = built(ask, "x"), str(uuid.uuid4())
    path = f"/templates/{made['templateID']}/builds"
    missing = (400, f"Build '{absent}' not found")
    assert refused(ask, "/templates/absent/builds/absent/status") == (400, "Invalid build id")
    assert refused(ask, f"{path}/abc/status") == (400, "Invalid build id")
    assert refused(ask, f"{path}/{absent.upper()}/status") == missing
    assert refused(ask, f"/templates/absent/builds/{absent}/status") == missing
    assert refused(ask, f"{path}/{absent}/status", key=OTHER) == missing


def test_build_of_another_team(ask: Ask) -> None:
    """The build of another team's template is 403, and the template is named."""
    made = requested(ask, "x")
    message = f"You don't have access to this sandbox template ({made['templateID']})"
    assert refused(ask, status_path(made), key=OTHER) == (403, message)


def test_id_in_capitals(ask: Ask) -> None:
    """The ID of a build may be in capitals, and is answered as it was asked."""
    made = built(ask, "x")
    capitals = made["buildID"].upper()
    answer = ask("GET", f"/templates/{made['templateID']}/builds/{capitals}/status")
    assert (answer.status_code, answer.json()["buildID"]) == (200, capitals)


def test_build_to_be_started_that_has_no_id(ask: Ask) -> None:
    """An ID that is none cannot be started; one in capitals can."""
    made = requested(ask, "x")
    path = f"/v2/templates/{made['templateID']}/builds"
    answer = ask("POST", f"{path}/abc", {"fromImage": "a"})
    assert (answer.status_code, answer.json()["message"]) == (400, "Invalid build ID: abc")
    assert ask("POST", f"{path}/{made['buildID'].upper()}", {"fromImage": "a"}).status_code == 202


def test_level_of_the_log(ask: Ask) -> None:
    """The log has the lines of a level and above, and the offset counts only those."""
    start = {"fromImage": "a", "steps": [RUN, {"type": "RUN", "args": ["false"]}]}
    made = built(ask, "x", start=start)
    path, order = status_path(made), ["debug", "info", "warn", "error"]
    log = ask("GET", path).json()["logEntries"]
    assert {entry["level"] for entry in log} == {"debug", "info", "error"}
    for level in order:
        passed = [e for e in log if order.index(e["level"]) >= order.index(level)]
        assert ask("GET", f"{path}?level={level}").json()["logEntries"] == passed
        rest = ask("GET", f"{path}?level={level}&logsOffset=1").json()["logEntries"]
        assert rest == passed[1:]


def test_reason_without_a_step_has_no_lines(ask: Ask) -> None:
    """A reason has lines of the log only if it names a step."""
    early = requested(ask, "x")
    requested(ask, "x")
    assert ask("GET", status_path(early)).json()["reason"] == {
        "message": "The build was canceled because it was superseded by a newer one."
    }
    made = built(ask, "y", start={"fromImage": "a", "steps": [{"type": "RUN", "args": ["false"]}]})
    assert made["status"]["reason"] == {
        "message": "failed to run command 'false': exit status 1",
        "step": "1",
        "logEntries": [],
    }


@pytest.mark.parametrize("lost", ["tag", "template"])
def test_status_outlives_its_build(server: Server, ask: Ask, lost: str) -> None:
    """A status that was asked for before is told for five minutes after the build's last tag, or its
    template, is gone."""
    made = built(ask, "x", tags=["v1"])
    (build,) = server.builds()
    if lost == "tag":
        assert ask("DELETE", "/templates/tags", {"name": "x", "tags": ["v1"]}).status_code == 204
    else:
        assert ask("DELETE", "/templates/x").status_code == 204
    assert ask("GET", status_path(made)).json()["status"] == "ready"
    build.cached_at -= 290
    assert ask("GET", status_path(made)).json()["status"] == "ready"
    build.cached_at -= 11
    missing = (400, f"Build '{made['buildID']}' not found")
    assert refused(ask, status_path(made)) == missing


def test_status_is_renewed_after_a_minute(server: Server, ask: Ask) -> None:
    """A cached status that is older than a minute is told once more, and the current one next."""
    made = requested(ask, "x")
    path = status_path(made)
    assert ask("GET", path).json()["status"] == "waiting"
    requested(ask, "x")
    assert ask("GET", path).json()["status"] == "waiting"
    server.builds()[0].cached_at -= 61
    assert ask("GET", path).json()["status"] == "waiting"
    assert ask("GET", path).json()["status"] == "error"
