"""When sandboxes are opened, how long they are kept, and what a pool has ready, on either target."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from builder.errors import RevokedError
from builder.runtime import CodeOutput
from tests.support.clouds import Opened, Place
from tests.support.e2b_server import Server
from tests.support.execution import executed, full

pytestmark = pytest.mark.network


@pytest.mark.parametrize("readiness", ["wait", "warmup", "background"])
def test_every_readiness_runs_code(open_one: Opened, readiness: Any) -> None:
    """However it is opened, the first execution works, with the template's imports."""
    (found,) = executed(
        open_one(readiness=readiness), "import idna; print(idna.encode('ä').decode())"
    )
    assert found["output"] == "xn--4ca\n"


def test_background_opens_while_the_program_works(open_one: Opened) -> None:
    """`background` does not keep the program: it waits at the first execution."""

    async def run() -> tuple[float, str]:
        start = time.monotonic()
        async with open_one(readiness="background") as executor:
            entered = time.monotonic() - start
            return entered, (await executor.execute({"code": "print(1)"}))["output"]

    entered, output = asyncio.run(run())
    assert entered < 0.1
    assert output == "1\n"


def test_background_that_nobody_waits_for(open_one: Opened, cloud: Server) -> None:
    """Leaving before it is open ends what was being opened."""

    async def run() -> None:
        async with open_one(readiness="background"):
            await asyncio.sleep(0.01)

    asyncio.run(run())


def test_session_is_rotated_under_load(open_one: Opened) -> None:
    """A session is replaced before it is too old, also while many callers use it."""

    async def run() -> list[CodeOutput]:
        async with open_one(session_max_age=0.5) as executor:

            async def caller(number: int) -> CodeOutput:
                await asyncio.sleep(number * 0.1)
                return await executor.execute({"code": f"print({number})"})

            return await asyncio.gather(*(caller(number) for number in range(12)))

    found = asyncio.run(run())
    assert [one["output"] for one in found] == [f"{number}\n" for number in range(12)]
    assert len({one["sandbox_id"] for one in found}) > 1


def test_cancelled_caller_leaves_nothing(open_one: Opened, cloud: Server, target: str) -> None:
    """Cancelling an execution ends its sandbox; the next execution gets another one."""

    async def run() -> tuple[str, str]:
        executor = open_one()
        first = await executor.execute({"code": "import os; print(os.getpid())"})
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await executor.execute({"code": "while True: pass", "timeout": 300})
        assert executor._current._session is None
        assert cloud.running == {}
        second = await executor.execute({"code": "print(2)"})
        await executor.cleanup()
        if target == "local":
            assert not Path(f"/proc/{first['output'].strip()}").exists()
        return first["sandbox_id"], second["sandbox_id"]

    first, second = asyncio.run(run())
    assert first != second


def test_cancelled_opening_leaves_nothing(open_one: Opened, cloud: Server) -> None:
    """Cancelling while a sandbox is created or comes up ends it."""

    async def run() -> None:
        for moment in (0.0, 0.02, 0.1, 0.2, 0.4):
            task = asyncio.ensure_future(open_one().execute({"code": "while True: pass"}))
            await asyncio.sleep(moment)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert cloud.running == {}

    asyncio.run(run())


def test_pool_hands_out_refills_and_ends(open_one: Opened, cloud: Server, target: str) -> None:
    """A pool's sandboxes are handed out at once, each to one caller, and end with the program."""

    async def run() -> tuple[list[float], list[str]]:
        opened, ids = [], []
        for _ in range(3):
            executor = open_one(pool_size=2)
            await full(executor._current.policy.pool())
            start = time.perf_counter()
            async with executor:
                opened.append(time.perf_counter() - start)
                found = await executor.execute({"code": "print('mine' in globals()); mine = 1"})
                assert found["output"] == "False\n"
                ids.append(found["sandbox_id"])
        if target == "e2b":
            assert len(cloud.running) >= 2
        return opened, ids

    opened, ids = asyncio.run(run())
    assert min(opened) < 0.05
    assert len(set(ids)) == 3


def test_pool_replaces_the_dead(open_one: Opened, cloud: Server, target: str) -> None:
    """A sandbox that died in the pool is not handed out, or is replaced before code runs in it."""

    async def run() -> None:
        executor = open_one(pool_size=2)
        pool = executor._current.policy.pool()
        await full(pool)
        dead = {session.id for session in pool._ready}
        if target == "e2b":
            for sandbox in list(cloud.running.values()):
                cloud.end(sandbox)
        else:
            for session in pool._ready:
                session._sandbox.abort()  # type: ignore[attr-defined]
            await asyncio.sleep(0.3)
        async with executor:
            found = await executor.execute({"code": "print(1)"})
            assert found["output"] == "1\n"
            assert found["sandbox_id"] not in dead

    asyncio.run(run())


def test_pool_that_cannot_open_tells_who_asks(
    open_one: Opened, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """When a pool cannot open sandboxes, who asks for one is told why, and does not wait."""
    executor = open_one(pool_size=1)
    revoke_on = json.loads((place.folder / "registry.json").read_text())
    for entry in revoke_on["templates"]["one"].values():
        for build in entry["builds"].values():
            build["revoked"] = "bad"
    (place.folder / "registry.json").write_text(json.dumps(revoke_on))
    with pytest.raises(RevokedError, match="is revoked: bad"):
        asyncio.run(executor.execute({"code": "1"}))
