"""Sandboxes whose creation was answered with a conflict, or not at all, and those of small tiers."""

from __future__ import annotations

import asyncio
import logging

import pytest

from builder.runtime import CodeExecutionPrimitive, CodeOutput
from tests.support.clouds import Place
from tests.support.e2b_server import Fault, Server

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
