from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from builder.errors import BuildError, StepError
from builder.targets.e2b import building
from tests.support.clouds import Place
from tests.support.e2b_server import Fault, ModelledSteps, Server
from tests.support.e2b_server.state import SUPERSEDED, Build
from tests.support.runs import meanwhile, until

INTERNAL = "An internal error occurred. Please try again or contact support with the build ID."


def call(server: Server, method: str, path: str, json: Any = None) -> Any:
    """A call of another machine of the same account."""
    headers = {"X-API-Key": server.key}
    answer = httpx.request(method, f"{server.url}{path}", json=json, headers=headers)
    answer.raise_for_status()
    return answer.json() if answer.content else None


def asked(server: Server, build: Build) -> str:
    """Ask for another build of the digest of `build`; its ID."""
    (template,) = server.state.templates.values()
    (tag,) = template.tags_of(build.id)
    body = {"name": template.name, "tags": [tag]}
    build_id: str = call(server, "POST", "/v3/templates", body)["buildID"]
    return build_id


def begun(server: Server, build: Build, build_id: str, steps: Any) -> None:
    path = f"/v2/templates/{build.template_id}/builds/{build_id}"
    call(server, "POST", path, {"fromImage": "localhost:1/python:3.13", "steps": steps})


@pytest.mark.slow
@pytest.mark.parametrize("stale", [False, True], ids=["status is told", "status is stale"])
def test_running_build_that_is_overtaken(
    place: Place, lead: Callable[[Server], Server], monkeypatch: pytest.MonkeyPatch, stale: bool
) -> None:
    """Where somebody else's build of the same digest cancels the one that runs, that one is taken,
    whether E2B's cache of the status says so or not."""
    monkeypatch.setattr(building, "_QUIET_SECONDS", 0.5)
    with Server(ModelledSteps(seconds=lambda _: 0.3)) as server:
        lead(server)
        server.state.poll_seconds = 3600 if stale else 0.2

        def overtake() -> None:
            until(lambda: server.builds("four") and len(server.builds("four")[0].log) > 4)
            (first,) = server.builds("four")
            begun(server, first, asked(server, first), first.request["steps"])

        with meanwhile(overtake):
            outcome = place.build("four")["four"]
        assert outcome.error is None, outcome.error
        first, second = server.builds("four")
        assert first.canceled.is_set()
        assert [first.times_started, second.times_started] == [1, 1]
        assert place.recorded("four")["build_id"] == second.id
        texts = [event.text for event in place.events]
        assert "another machine started the same build: waiting for that one" in texts


@pytest.mark.slow
def test_waiting_build_that_is_overtaken(place: Place, lead: Callable[[Server], Server]) -> None:
    """A build that is overtaken before it begins is not started, which would cancel the newer one,
    though E2B's cache says that it waits."""
    with Server(ModelledSteps(seconds=lambda _: 0.2)) as server:
        lead(server)
        server.front.faults.append(Fault("PUT /upload/.*", "slow", seconds=1.0))

        def overtake() -> None:
            until(lambda: server.front.faults[0].happened)
            (first,) = server.builds("four")
            path = f"/templates/{first.template_id}/builds/{first.id}/status"
            assert call(server, "GET", path)["status"] == "waiting"
            begun(server, first, asked(server, first), [{"type": "RUN", "args": ["slow"]}] * 9)

        with meanwhile(overtake):
            outcome = place.build("four")["four"]
        assert outcome.error is None, outcome.error
        first, second = server.builds("four")
        assert (first.times_started, second.times_started) == (0, 1)
        assert second.status == "ready"
        assert place.recorded("four")["build_id"] == second.id


@pytest.mark.parametrize("words", ["build was cancelled", "cancelled by admin", SUPERSEDED])
def test_build_that_was_cancelled_for_no_other(place: Place, cloud: Server, words: str) -> None:
    """A build that is cancelled though the digest's tag is still on it was not replaced: it fails
    with E2B's words, and no other is started."""
    cloud.state.failures.append(("3", None, words))
    error = place.build("four")["four"].error
    assert type(error) is BuildError
    assert error.message.startswith("the build failed on e2b, at step 3 of ")
    assert f"\n  E2B says: {words}" in error.message
    assert (
        error.hint == "no other build replaced it: ask whoever manages the account, or run it again"
    )
    assert len(cloud.builds("four")) == 1


def test_template_that_is_deleted_while_it_is_built(
    place: Place, lead: Callable[[Server], Server]
) -> None:
    """A build whose template somebody deletes ends with that as the likely cause."""
    with Server(ModelledSteps(seconds=lambda _: 0.3)) as server:
        lead(server)

        def delete() -> None:
            until(lambda: server.builds("four") and len(server.builds("four")[0].log) > 2)
            (template_id,) = server.state.templates
            call(server, "DELETE", f"/templates/{template_id}")

        with meanwhile(delete):
            error = place.build("four")["four"].error
        assert type(error) is BuildError
        assert error.message.endswith(" not found")
        assert (
            error.hint
            == "somebody deleted the template, or the build's tag: run the same command again"
        )


def test_step_that_says_cancelled(place: Place, cloud: Server) -> None:
    """The reason of a step that failed is not taken for that of a build that was overtaken."""
    cloud.state.failures.append(("2", "2", "the download was cancelled"))
    error = place.build("four")["four"].error
    assert type(error) is StepError
    assert error.message.startswith("step 2 of ")
    assert "\n  E2B says: the download was cancelled" in error.message
    assert len(cloud.builds("four")) == 1


def test_successor_that_does_not_begin(
    place: Place, lead: Callable[[Server], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build of the same digest that is asked for and never begun cancels nothing: the one that
    runs is followed to its end."""
    monkeypatch.setattr(building, "_QUIET_SECONDS", 0.2)
    with Server(ModelledSteps(final_seconds=2.0)) as server:
        lead(server)

        def ask() -> None:
            until(lambda: server.builds("four") and server.builds("four")[0].running)
            asked(server, server.builds("four")[0])

        with meanwhile(ask):
            outcome = place.build("four")["four"]
        assert outcome.error is None, outcome.error
        first, second = server.builds("four")
        assert (first.times_started, second.times_started) == (1, 0)
        assert place.recorded("four")["build_id"] == first.id


@pytest.mark.parametrize(
    ("phase", "step", "message", "kind", "told"),
    [
        ("base", "base", "no such image", StepError, "the base image failed on e2b: FROM localhost:1/python:3.13"),
        ("resize-disk", "resize-disk", "no room", StepError, "enlarging the disk, after the steps, failed on e2b"),
        ("finalize", "finalize", "start command failed", StepError, "the start command, after the steps, failed on e2b: start command: "),
        ("optimize", "optimize", "no pages", StepError, "optimizing the snapshot, after the steps, failed on e2b"),
        ("2", None, "build timed out", BuildError, "the build failed on e2b, at step 2 of "),
        ("base", "", "build timed out", BuildError, "the build failed on e2b, at the base image"),
        ("base", "", "error when building env: no room", BuildError, "the build failed on e2b, at the base image"),
    ],
)  # fmt: skip
def test_phase_that_fails(
    place: Place, cloud: Server, phase: str, step: str | None, message: str, kind: type, told: str
) -> None:
    """What fails on E2B besides the steps is named, and not taken for a step."""
    cloud.state.failures.append((phase, step, message))
    error = place.build("four")["four"].error
    assert error
    assert type(error) is kind, error
    assert error.message.startswith(told), error.message
    assert f"\n  E2B says: {message}" in error.message
    assert "Build failed" not in error.message
    assert len(cloud.builds("four")) == 1


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize(
    "words",
    [
        INTERNAL,
        "polling received unrecoverable error: build info is gone, maybe already expired",
        "error when building env: failed to get builder: node not found",
    ],
    ids=["internal", "polling", "no builder"],
)
def test_fault_of_its_own_is_met_again_once(
    place: Place, cloud: Server, words: str, times: int
) -> None:
    """After a fault of E2B's own the build is asked for once more, not more often."""
    cloud.state.failures += [("2", None, words)] * times
    error = place.build("four")["four"].error
    builds = cloud.builds("four")
    assert len(builds) == 2
    texts = [event.text for event in place.events]
    assert "E2B reported an internal error: trying once more" in texts
    if times == 1:
        assert error is None
        return
    assert type(error) is BuildError
    assert error.message.startswith("the build failed on e2b, at step 2 of ")
    assert (
        error.hint
        == f"run the command again later, or ask E2B's support about build {builds[1].id}"
    )
