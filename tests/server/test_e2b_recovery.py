from __future__ import annotations

import datetime as dt
import json
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from builder.errors import (
    BuildError,
    InterruptedRunError,
    StepError,
)
from builder.targets.journal import Journal
from tests.support.clouds import NAMES, Place
from tests.support.e2b_server import Fault, ModelledSteps, Server
from tests.support.options import rounds
from tests.support.runs import finished, once, revoke, started, until

KILLS = rounds(1)


def test_killed_run_is_taken_up(place: Place, lead: Callable[[Server], Server]) -> None:
    """After SIGKILL while a build runs, the next run follows that very build, from the first line
    of its log, and publishes it."""
    with Server(ModelledSteps(seconds=lambda _: 0.3)) as server:
        lead(server)
        process = started(place, "four")
        until(lambda: server.builds("four") and len(server.builds("four")[0].log) > 3)
        process.kill()
        process.communicate()
        (build,) = server.builds("four")
        entry = Journal(place.folder / ".builder" / "journal", target="e2b").read("four")
        assert entry
        assert (entry.template_id, entry.build_id) == (build.template_id, build.id)
        said = finished(started(place, "four"))
        assert f"four: resuming build {build.id} of an earlier run" in said
        assert len(server.builds("four")) == 1
        assert place.recorded("four")["build_id"] == build.id
        times = [dt.datetime.fromisoformat(entry["timestamp"]) for entry in build.log]
        whole = (times[-1] - times[0]).total_seconds()
        assert place.recorded("four")["verified"]["seconds"]["build"] == round(whole, 3)
        for entry_of_log in build.log:
            assert entry_of_log["message"].splitlines()[0] in place.log("four")
        assert not Journal(place.folder / ".builder" / "journal", target="e2b").names()


@pytest.mark.slow
def test_kill_after_recording_leaves_no_entry(
    place: Place, lead: Callable[[Server], Server]
) -> None:
    """A run that was killed between recording a build and forgetting it leaves an entry; the next
    run, which has nothing to build, forgets it."""
    with Server() as server:
        lead(server)
        finished(started(place, "four"))
        record = place.recorded("four")
        journal = Journal(place.folder / ".builder" / "journal", target="e2b")
        entry = journal.begin("four", record["digest"])
        journal.write(
            replace(entry, template_id=record["template_id"], build_id=record["build_id"])
        )
        finished(started(place, "four"))
        assert journal.names() == []
        assert len(server.builds("four")) == 1


@pytest.mark.slow
def test_killed_run_leaves_no_sandbox(place: Place, lead: Callable[[Server], Server]) -> None:
    """A sandbox of a run that was killed is ended by the next run, whatever that one builds."""
    with Server(ready_after=3600) as server:
        lead(server)
        process = started(place, "four")
        until(lambda: server.running)
        process.kill()
        process.communicate()
        (left,) = server.running
        server.ready_after = 0
        finished(started(place, "three"))
        assert server.running == {}
        assert left in server.ended
        finished(started(place, "four"))
        assert len(server.builds("four")) == 1


@pytest.mark.slow
def test_what_was_abandoned_is_not_published(
    place: Place, lead: Callable[[Server], Server]
) -> None:
    """A build whose spec has changed since its run was killed ends by itself, and gets no tag."""
    with Server(ModelledSteps(seconds=lambda _: 0.2)) as server:
        lead(server)
        process = started(place, "four")
        until(lambda: server.builds("four") and server.builds("four")[0].log)
        process.kill()
        process.communicate()
        (abandoned,) = server.builds("four")
        place.edit("four", lambda text: f'{text}[env]\nA = "1"\n')
        finished(started(place, "four"))
        until(lambda: abandoned.status == "ready")
        assert abandoned.id not in (server.tags("four")["default"], server.tags("four")["stable"])
        assert place.recorded("four")["build_id"] == server.tags("four")["default"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "moment"), [(signal.SIGINT, "building"), (signal.SIGTERM, "verifying")]
)
def test_interrupted_run_is_taken_up(
    place: Place, lead: Callable[[Server], Server], number: signal.Signals, moment: str
) -> None:
    """Ctrl-C ends a run at once, with no sandbox left; the next run goes on with the builds."""
    with Server(ModelledSteps(seconds=lambda _: 0.2)) as server:
        lead(server)
        if moment == "verifying":
            server.ready_after = 3600
        process = started(place)
        until(lambda: server.running if moment == "verifying" else server.state.executed)
        time.sleep(0.3)
        process.send_signal(number)
        asked = time.monotonic()
        _, said = process.communicate(timeout=60)
        assert time.monotonic() - asked < 30
        assert process.returncode == InterruptedRunError.exit_code, said
        assert (
            "hint: run the same command again to continue, also with builds running on E2B" in said
        )
        assert server.running == {}
        server.ready_after = 0
        finished(started(place))
        once(server, place)


@pytest.mark.slow
def test_two_processes_build_once(place: Place, lead: Callable[[Server], Server]) -> None:
    """Two runs in one project at once build every variant once, and both succeed."""
    with Server(ModelledSteps(seconds=lambda _: 0.1)) as server:
        lead(server)
        said = [finished(process) for process in [started(place), started(place)]]
        once(server, place)
        assert any("waiting for another process that builds it" in text for text in said)


@pytest.mark.slow
def test_two_machines_build_once(
    places: Callable[[str], Place], lead: Callable[[Server], Server]
) -> None:
    """Two machines that know nothing of each other but the account build every digest once."""
    one, other = places("one"), places("other")
    with Server(ModelledSteps(seconds=lambda _: 0.3)) as server:
        lead(server)
        first = started(one)
        until(lambda: server.state.executed)
        second = started(other)
        finished(first)
        said = finished(second)
        once(server, one, other)
        assert "of the same digest " in said


@pytest.mark.slow
def test_machines_that_begin_in_the_same_moment(
    places: Callable[[str], Place], lead: Callable[[Server], Server]
) -> None:
    """Where two ask for one digest at once, E2B keeps the later: both follow it, none fails."""
    one, other = places("one"), places("other")
    with Server(ModelledSteps(seconds=lambda _: 0.3)) as server:
        lead(server)
        # Both look before either has asked.
        server.front.faults += [
            Fault("POST /v3/templates", "slow", seconds=0.5, times=2),
        ]
        for process in [started(one, "four"), started(other, "four")]:
            finished(process)
        ready = [build.id for build in server.builds("four") if build.status == "ready"]
        assert len(ready) == 1
        assert [place.recorded("four")["build_id"] for place in (one, other)] == ready * 2
        assert server.problems == []


@pytest.mark.chance
@pytest.mark.timeout(3600)
def test_kill_at_any_moment(
    places: Callable[[str], Place], lead: Callable[[Server], Server]
) -> None:
    """Whenever a build of four variants is killed, after the next run every variant has exactly
    one build, published and recorded, and no sandbox lives on."""
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    longest = 4.0
    for number in range(KILLS):
        place = places(f"place{number}")
        with Server(ModelledSteps(seconds=lambda _: 0.02)) as server:
            lead(server)
            process = started(place)
            moment = chance.uniform(0.3, longest)
            time.sleep(moment)
            process.kill()
            process.communicate()
            finished(started(place))
            try:
                once(server, place)
            except AssertionError as error:
                raise AssertionError(f"killed after {moment:.3f} s, seed {seed}") from error
            assert set(json.loads((place.folder / "registry.json").read_text())["templates"]) == {
                *NAMES
            }
            assert not Journal(place.folder / ".builder" / "journal", target="e2b").names()


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


@pytest.mark.slow
@pytest.mark.usefixtures("with_four")
def test_revoked_build_does_not_come_back(place: Place, cloud: Server) -> None:
    """Though a revoked build still carries the tag of the digest, it is never taken again."""
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_force_builds_anew_after_a_run_that_was_killed(place: Place, cloud: Server) -> None:
    """--force does not take up a build that was begun without it."""
    killed_while_verifying(place, cloud)
    place.build("four", force=True)
    first, second = cloud.builds("four")
    assert place.recorded("four")["build_id"] == second.id
    assert first.id != second.id


@pytest.mark.slow
@pytest.mark.usefixtures("with_four")
def test_refused_force_leaves_nothing_to_take_up(place: Place, cloud: Server) -> None:
    """--force that E2B refused is asked for anew by the next --force, and harms nothing before."""
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


@pytest.mark.usefixtures("with_four")
def test_failed_force_keeps_the_good_build(place: Place, cloud: Server) -> None:
    """After a forced build failed, the one before is still present, recorded and published."""
    first = place.recorded("four")["build_id"]
    assert isinstance(cloud.steps, ModelledSteps)
    cloud.steps.fails = lambda step: "no" if step["type"] == "RUN" else None
    assert isinstance(place.build("four", force=True)["four"].error, StepError)
    assert cloud.tags("four")["default"] == first
    assert [one.action for one in place.planned("four").variants] == ["skip"]
    assert place.build("four")["four"].action == "skipped"


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


@pytest.mark.slow
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
