"""What a person who meant harm, or had bad luck, found out: each a fact that must stay one."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from builder.errors import (
    BuildError,
    InterruptedRunError,
    NetworkError,
    SandboxError,
    StepError,
    TargetUnavailableError,
    VerifyError,
)
from builder.targets.adapters import choose
from builder.targets.journal import Journal
from tests.conftest import Command
from tests.support.clouds import Place
from tests.support.e2b_server import Fault, ModelledSteps, Server
from tests.support.e2b_server.state import Team
from tests.support.runs import finished, revoke, started, until


def digest_tag(server: Server) -> str:
    (found,) = (tag for tag in server.tags("four") if tag.startswith("sha256-"))
    return found


def entry_path(place: Place) -> Any:
    return place.folder / ".builder" / "journal" / "e2b" / "four.json"


def killed_while_verifying(place: Place, server: Server) -> None:
    server.ready_after = 3600
    process = started(place, "four")
    until(lambda: server.running)
    process.kill()
    process.communicate()
    server.ready_after = 0


def test_revoked_build_does_not_come_back(place: Place, cloud: Server) -> None:
    """Though a revoked build still carries the tag of the digest, it is never taken again."""
    place.build("four")
    revoked = place.recorded("four")["build_id"]
    revoke(place, "four")
    outcome = place.build("four")["four"]
    assert outcome.action == "built"
    assert place.recorded("four")["build_id"] != revoked
    tags = cloud.tags("four")
    assert {tags["default"], tags["stable"], tags[digest_tag(cloud)]} == {
        place.recorded("four")["build_id"]
    }
    assert [one.action for one in place.planned("four").variants] == ["skip"]


def test_build_of_an_earlier_run_leaves_a_newer_one_alone(
    places: Callable[[str], Place], cloud: Server
) -> None:
    """What is taken up and verified is recorded by its own ID, and moves no tag of a build that
    another machine has begun since."""
    one, other = places("one"), places("other")
    killed_while_verifying(one, cloud)
    (first,) = cloud.builds("four")
    assert other.build("four", force=True)["four"].action == "built"
    newer = other.recorded("four")["build_id"]
    assert newer != first.id
    outcome = one.build("four")["four"]
    assert (outcome.action, outcome.ref) == ("built", f"{first.template_id}:{first.id}")
    assert outcome.overtaken
    tags = cloud.tags("four")
    assert {tags["default"], tags["stable"], tags[digest_tag(cloud)]} == {newer}
    assert [variant.action for variant in one.planned("four").variants] == ["skip"]


def test_force_builds_anew_after_a_run_that_was_killed(place: Place, cloud: Server) -> None:
    """--force does not take up a build that was begun without it."""
    killed_while_verifying(place, cloud)
    place.build("four", force=True)
    first, second = cloud.builds("four")
    assert place.recorded("four")["build_id"] == second.id
    assert first.id != second.id


def test_refused_force_leaves_nothing_to_take_up(place: Place, cloud: Server) -> None:
    """--force that E2B refused is asked for anew by the next --force, and harms nothing before."""
    place.build("four")
    first = place.recorded("four")["build_id"]
    fault = Fault("POST /v3/templates", "status", code=400, times=1000)
    cloud.front.faults.append(fault)
    assert isinstance(place.build("four", force=True)["four"].error, BuildError)
    assert not entry_path(place).exists()
    cloud.front.faults.clear()
    assert place.build("four")["four"].action == "skipped"
    assert place.build("four", force=True)["four"].action == "built"
    assert place.recorded("four")["build_id"] != first
    assert len(cloud.builds("four")) == 2


def test_failed_force_keeps_the_good_build(place: Place, cloud: Server) -> None:
    """After a forced build failed, the one before is still present, recorded and published."""
    place.build("four")
    first = place.recorded("four")["build_id"]
    assert isinstance(cloud.steps, ModelledSteps)
    cloud.steps.fails = lambda step: "no" if step["type"] == "RUN" else None
    assert isinstance(place.build("four", force=True)["four"].error, StepError)
    assert cloud.tags("four")["default"] == first
    assert [one.action for one in place.planned("four").variants] == ["skip"]
    assert place.build("four")["four"].action == "skipped"


@pytest.mark.parametrize("asked", ["build", "plan"])
def test_interrupted_while_it_plans(
    place: Place, lead: Callable[[Server], Server], asked: str
) -> None:
    """Ctrl-C ends a run that E2B keeps waiting for its very first answers."""
    with Server() as server:
        lead(server)
        server.front.faults.append(Fault("GET /templates/.*", "slow", seconds=20, times=1000))
        process = started(place, "four", command=asked)
        until(lambda: server.front.requests)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        sent = time.monotonic()
        _, said = process.communicate(timeout=60)
        assert time.monotonic() - sent < 15
        assert process.returncode == InterruptedRunError.exit_code, said


def test_interrupted_while_a_sandbox_is_created(
    place: Place, lead: Callable[[Server], Server]
) -> None:
    """A sandbox whose creation Ctrl-C met is ended, at once or by the next run."""
    with Server() as server:
        lead(server)
        server.front.faults.append(Fault("POST /v2/sandboxes", "slow", seconds=2))
        process = started(place, "four")
        until(lambda: "POST /v2/sandboxes" in server.front.requests)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert process.returncode == InterruptedRunError.exit_code, said
        until(lambda: server.created)
        finished(started(place, "four"))
        assert server.running == {}
        assert len(server.builds("four")) == 1


def test_sandbox_whose_creation_was_not_answered(place: Place, cloud: Server) -> None:
    """Sandboxes that were created, but whose answers got lost, are ended at once, and by the next
    run where that is not possible."""
    lost = Fault("POST /v2/sandboxes", "reset after", times=1000)
    cloud.front.faults.append(lost)
    assert isinstance(place.build("four")["four"].error, NetworkError)
    assert cloud.running == {}
    cloud.front.faults.append(Fault("DELETE /sandboxes/.*", "status", code=500, times=1000))
    assert isinstance(place.build("four")["four"].error, NetworkError)
    assert cloud.running
    cloud.front.faults.clear()
    assert place.build("four")["four"].action == "built"
    assert cloud.running == {}


def test_account_with_room_for_one_sandbox(place: Place, lead: Callable[[Server], Server]) -> None:
    """Verifying needs one sandbox at a time, however many levels of warm-up are measured."""
    with Server(teams=[Team(key="e2b_" + "2" * 40, sandboxes_at_a_time=1)]) as server:
        lead(server)
        assert place.build("one")["one"].action == "built"
        assert server.created == 3
        assert server.running == {}


def test_address_of_an_upload_is_not_shown(
    place: Place, lead: Callable[[Server], Server], command: Command
) -> None:
    """The address that files are uploaded to is signed: it is in no message and no log."""
    with Server() as server:
        lead(server)
        server.front.faults.append(Fault("PUT /upload/.*", "status", code=403, times=1000))
        said = command("build", "four", "--frozen", "--precheck", "never", cwd=place.folder)
    assert "` failed: Client error '403 Forbidden' for url" in said.stderr
    for text in (said.stderr, said.stdout, place.log("four")):
        assert "/upload/" not in text


def test_check_after_one_that_hangs(place: Place, cloud: Server) -> None:
    """A check that runs out of time does not spoil the one after it."""
    place.edit(
        "four",
        lambda text: (
            f'{text}[[verify]]\nname = "hangs"\ncode = "while True: pass"\ntimeout = 1\n'
            '[[verify]]\nname = "fine"\ncode = "print(1)"\nstdout = "1"\n'
        ),
    )
    error = place.build("four")["four"].error
    assert isinstance(error, VerifyError)
    assert "check `hangs`" in error.message
    assert "check `fine`" not in error.message
    assert cloud.running == {}


def test_sandbox_that_ends_before_it_is_ready(
    place: Place, lead: Callable[[Server], Server]
) -> None:
    """A sandbox that is gone is not asked for two minutes whether it is ready."""
    with Server(ready_after=3600) as server:
        lead(server)
        process = started(place, "four")
        until(lambda: server.running)
        time.sleep(0.3)
        for sandbox in list(server.running.values()):
            server.end(sandbox)
        _, said = process.communicate(timeout=90)
        assert process.returncode == SandboxError.exit_code, said
        assert "it ended before its code service started" in said


@pytest.mark.parametrize(
    "fields",
    [
        {"template_id": "a/../b\n\x00", "build_id": "x?y"},
        {"template_id": [], "build_id": {}},
        {"verifying": 1},
        {"forced": "yes"},
        {"expected_cached": True},
    ],
)
def test_odd_journal_is_as_good_as_none(
    place: Place, cloud: Server, fields: dict[str, Any]
) -> None:
    """An entry of the journal that was tampered with is not taken up, and stops nothing."""
    digest = place.planned("four").variants[0].digest
    entry = {"name": "four", "digest": digest, "started_at": "", **fields}
    entry_path(place).parent.mkdir(parents=True, exist_ok=True)
    entry_path(place).write_text(json.dumps(entry))
    assert Journal(entry_path(place).parents[1], target="e2b").read("four") is None
    assert place.build("four")["four"].action == "built"
    assert len(cloud.builds("four")) == 1


def test_leftover_that_cannot_be_listed_stops_nothing(place: Place, cloud: Server) -> None:
    """A sandbox of an earlier run that cannot be ended now is a warning, and not forgotten."""
    killed_while_verifying(place, cloud)
    cloud.front.faults.append(Fault("GET /v2/sandboxes", "status", code=403, times=1000))
    assert place.build("three")["three"].action == "built"
    (warning,) = place.warnings()
    assert warning.startswith("a sandbox that an earlier run opened for `four` may still run: ")
    assert warning.endswith("; the next run tries again to end it")
    assert len(cloud.running) == 1
    cloud.front.faults.clear()
    place.build("three")
    assert cloud.running == {}


def test_error_without_a_reason(
    place: Place, cloud: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed build of which E2B does not say where is told by the last step of its log."""
    monkeypatch.setattr(cloud, "tells_reasons", False)
    assert isinstance(cloud.steps, ModelledSteps)
    cloud.steps.fails = lambda step: "no" if step["type"] == "COPY" else None
    error = place.build("four")["four"].error
    assert isinstance(error, StepError)
    assert error.message.startswith("step 2 of 6 failed on e2b: COPY requirements/uv.txt ")
    assert "  E2B says: nothing\n" in error.message


def test_registry_that_changed_since_the_plan(place: Place, cloud: Server) -> None:
    """A tag is not moved to a build that was revoked after the plan was made."""
    place.build("four")
    planned = place.planned("four", channel="beta")
    assert [one.action for one in planned.variants] == ["retag"]
    revoke(place, "four")
    outcome = place.carry_out(planned, "four")["four"]
    assert isinstance(outcome.error, BuildError)
    assert outcome.error.message == (
        "the entry of `four` in registry.json has changed since the plan was made"
    )
    assert "beta" not in cloud.tags("four")


@pytest.mark.parametrize("channel", ["default", "sha256-1"])
def test_channel_that_would_be_a_tag_of_ours(place: Place, command: Command, channel: str) -> None:
    """A channel cannot have the name of a tag with a meaning of its own."""
    said = command("build", "four", "--channel", channel, cwd=place.folder)
    assert said.returncode == 64
    assert f"'{channel}' is reserved for builds on E2B: choose another name" in said.stderr


def test_key_of_spaces_is_none(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is set to spaces is not set."""
    monkeypatch.setenv("E2B_API_KEY", "  ")
    assert choose(place.project(), None)[0].kind == "local"
    with pytest.raises(TargetUnavailableError, match="E2B_API_KEY"):
        place.build("four")
