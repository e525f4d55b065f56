"""Sandboxes whose creation was answered with a conflict, or not at all, and those of small tiers."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable

import e2b
import pytest

from builder.errors import (
    InterruptedRunError,
    NetworkError,
    SandboxError,
    VerifyError,
)
from builder.runtime import CodeExecutionPrimitive, CodeOutput
from builder.targets.e2b.account import Account
from builder.targets.e2b.cloud import Cloud
from tests.support.clouds import Place
from tests.support.e2b_server import Fault, Server
from tests.support.e2b_server.state import Team
from tests.support.runs import finished, started, until

CREATE = "POST /v2/sandboxes"
LOST = ("reset after", 0, 1)


def add_faults(server: Server, *faults: tuple[str, int, int]) -> None:
    for kind, code, times in faults:
        server.front.faults.append(Fault(CREATE, kind, code=code, times=times))  # type: ignore[arg-type]


def run_once(server: Server, **options: float) -> CodeOutput:
    async def run() -> CodeOutput:
        async with CodeExecutionPrimitive(template_id="one", **options) as executor:  # type: ignore[arg-type]
            output = await executor.execute({"code": "print(1)"})
            assert [*server.running] == [output["sandbox_id"]]
            return output

    output = asyncio.run(run())
    assert output["output"] == "1\n"
    assert server.running == {}
    return output


@pytest.mark.network
@pytest.mark.parametrize(
    ("conflicts", "created"),
    [
        pytest.param([("status", 409, 2)], 1, id="still in progress"),
        pytest.param([("status", 409, 3)], 2, id="in progress for ever"),
        pytest.param([("status", 422, 1)], 2, id="outcome unknown"),
        pytest.param([("status", 422, 1), LOST, ("status", 422, 1)], 3, id="unknown twice"),
    ],
)
def test_conflict_after_a_lost_answer(
    ready: Server, conflicts: list[tuple[str, int, int]], created: int
) -> None:
    """After a lost answer E2B may refuse the same key: that is not final, and of all that was
    created meanwhile one sandbox remains, also where the account has room for no more."""
    next(iter(ready.state.teams.values())).sandboxes_at_a_time = 1
    add_faults(ready, LOST, *conflicts)
    run_once(ready)
    assert ready.created == created


@pytest.mark.network
def test_conflict_while_a_build_is_verified(place: Place, cloud: Server) -> None:
    """A build is verified through the same conflicts, and none of its sandboxes is left."""
    add_faults(cloud, LOST, ("status", 422, 1))
    assert place.build("four")["four"].action == "built"
    assert cloud.running == {}


@pytest.mark.network
def test_lifetime_beyond_the_tier(ready: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Where the account's tier allows no such lifetime, sandboxes get the longest that it allows;
    that is asked for once, and said once."""
    next(iter(ready.state.teams.values())).sandbox_hours = 1
    caplog.set_level(logging.WARNING)
    run_once(ready, session_max_age=7200)
    run_once(ready, session_max_age=7200)
    assert ready.front.requests.count(CREATE) == 3
    assert [record.getMessage() for record in caplog.records] == [
        "E2B ends every sandbox of this account within 3600 seconds, instead of the 7500 requested"
    ]


def test_lifetime_is_that_of_each_account() -> None:
    """The longest lifetime of one account is not taken for that of another one, and a sandbox is
    known to live as long as it was created for."""
    keys = ["e2b_" + digit * 40 for digit in "12"]
    teams = [Team(key=key, slug=f"t{key[-1]}", sandbox_hours=int(key[-1])) for key in keys]
    with Server(teams=teams) as server:
        found = []
        for key in keys:
            account = Account(api_key=key, api_url=server.url, sandbox_url=server.url)
            e2b.Template.build(e2b.Template().from_image("x"), "x", **account.options)
            creating = Cloud(account).create_sandbox("x", seconds=9000, metadata={})
            sandbox, seconds = asyncio.run(creating)
            found.append(seconds)
            assert server.running[sandbox.sandbox_id].ends - time.monotonic() > seconds - 60
        assert found == [3600, 7200]
        assert server.problems == []


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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_account_with_room_for_one_sandbox(place: Place, lead: Callable[[Server], Server]) -> None:
    """Verifying needs one sandbox at a time, however many levels of warm-up are measured."""
    with Server(teams=[Team(key="e2b_" + "2" * 40, sandboxes_at_a_time=1)]) as server:
        lead(server)
        assert place.build("one")["one"].action == "built"
        assert server.created == 3
        assert server.running == {}


@pytest.mark.slow
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
