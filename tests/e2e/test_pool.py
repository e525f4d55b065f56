"""When sandboxes are opened, how long they are kept, and what a pool has ready, on either target."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builder.errors import RevokedError, SandboxError
from builder.runtime import CodeOutput
from builder.runtime.pool import Pool
from builder.targets.local import launch
from tests.support.clouds import Opened, Place
from tests.support.e2b_server import Fault, Server
from tests.support.execution import executed, full, one
from tests.support.runs import revoke

pytestmark = pytest.mark.network


@pytest.mark.slow
@pytest.mark.parametrize("readiness", ["wait", "warmup", "background"])
def test_every_readiness_runs_code(open_one: Opened, readiness: Any) -> None:
    """However it is opened, the first execution works, with the template's imports."""
    (found,) = executed(
        open_one(readiness=readiness), "import idna; print(idna.encode('ä').decode())"
    )
    assert found["output"] == "xn--4ca\n"


def test_background_opens_while_the_program_works(open_one: Opened) -> None:
    """`background` does not keep the program: it waits at the first execution."""

    async def run() -> tuple[float, float, str]:
        start = time.monotonic()
        async with open_one(readiness="background") as executor:
            entered = time.monotonic() - start
            output = (await executor.execute({"code": "print(1)"}))["output"]
            return entered, time.monotonic() - start, output

    entered, executed, output = asyncio.run(run())
    assert entered < executed / 4
    assert output == "1\n"


def test_background_that_nobody_waits_for(open_one: Opened, cloud: Server) -> None:
    """Leaving before it is open ends what was being opened."""

    async def run() -> None:
        async with open_one(readiness="background"):
            await asyncio.sleep(0.01)

    asyncio.run(run())


@pytest.mark.slow
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
        first = await executor.execute({"code": "1"})
        session: Any = executor._current._session
        kernel = session._sandbox._process.pid if target == "local" else 0
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await executor.execute({"code": "while True: pass", "timeout": 300})
        assert executor._current._session is None
        assert cloud.running == {}
        second = await executor.execute({"code": "print(2)"})
        await executor.cleanup()
        if target == "local":
            assert not Path(f"/proc/{kernel}").exists()
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


@pytest.mark.slow
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


def kept() -> tuple[int, int]:
    """How many pools there are, and closed event loops."""
    gc.collect()
    objects = gc.get_objects()
    # By its class: some objects of libraries wake up when they are asked what they are.
    pools = [each for each in objects if issubclass(type(each), Pool)]
    loops = [each for each in objects if issubclass(type(each), asyncio.AbstractEventLoop)]
    return len(pools), sum(loop.is_closed() for loop in loops)


def no_more_than(before: tuple[int, int]) -> bool:
    """Whether nothing is left that was not there; what others have left may go meanwhile."""
    return all(now <= then for now, then in zip(kept(), before, strict=True))


def sandboxes() -> list[Path]:
    """The folders of forked sandboxes of this process."""
    zygotes = launch._zygotes.values()
    return [path for zygote in zygotes for path in zygote.folder.glob("template-*")]


def wait_until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.slow
def test_pools_end_with_their_loops(open_one: Opened, cloud: Server) -> None:
    """Of programs that each run an event loop with a pool nothing is left: no pool, no closed loop,
    no sandbox."""
    before = kept()

    async def run() -> None:
        async with open_one(pool_size=1) as executor, executor.session() as other:
            for each in (executor, other):
                assert (await each.execute({"code": "print(1)"}))["output"] == "1\n"

    for number in range(4):
        if number == 3:
            thread = threading.Thread(target=lambda: asyncio.run(run()))
            thread.start()
            thread.join()
        else:
            asyncio.run(run())
    wait_until(lambda: no_more_than(before) and cloud.running == {} and sandboxes() == [])


def test_pool_of_a_loop_that_was_only_closed(
    open_one: Opened, cloud: Server, target: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The sandboxes of a pool whose loop was closed without ending its tasks are ended as well, and
    asyncio reports none of its tasks as lost."""
    before = kept()

    async def run() -> list[str]:
        pool = open_one(pool_size=2)._current.policy.pool()
        await full(pool)
        return [session.id for session in pool._ready]

    loop = asyncio.new_event_loop()
    ids = loop.run_until_complete(run())
    assert len(set(ids)) == 2
    loop.close()
    del loop
    wait_until(lambda: no_more_than(before) and cloud.running == {} and sandboxes() == [])
    assert [entry.getMessage() for entry in caplog.records if entry.name == "asyncio"] == []


@pytest.mark.slow
def test_pool_does_not_wait_for_old_failures(ready: Server) -> None:
    """After failures ahead of need, who asks is served as soon as sandboxes can be opened."""

    async def run() -> float:
        fault = Fault("POST /v2/sandboxes", "status", code=400, times=50)
        ready.front.faults.append(fault)
        with pytest.raises(Exception, match="400"):
            async with one(pool_size=3):
                pass
        await asyncio.sleep(4)
        ready.front.faults.clear()
        start = time.monotonic()
        async with one(pool_size=3) as executor:
            await executor.execute({"code": "1"})
        return time.monotonic() - start

    assert asyncio.run(run()) < 6


def test_cleaning_up_while_a_sandbox_is_opened_leaves_none(ready: Server) -> None:
    """Whoever waits for the sandbox is told; the sandbox ends."""

    async def run(readiness: Any) -> None:
        executor = one(readiness=readiness)
        if readiness == "background":
            await executor.__aenter__()
        waiting = asyncio.ensure_future(executor.execute({"code": "1"}))
        await asyncio.sleep(0.02)
        await executor.cleanup()
        with pytest.raises(
            SandboxError, match="`cleanup` was called while the sandbox was being opened"
        ):
            await waiting

    for readiness in ("wait", "background"):
        asyncio.run(run(readiness))
        assert ready.running == {}


@pytest.mark.slow
def test_cancelled_wait_for_a_background_opening_leaves_none(ready: Server) -> None:
    """A call that is cancelled in any moment of an opening leaves no sandbox after the clean-up."""

    async def run(delay: float) -> None:
        async with one(readiness="background") as executor:
            waiting = asyncio.ensure_future(executor.execute({"code": "1"}))
            await asyncio.sleep(delay)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

    for number in range(20):
        asyncio.run(run(0.01 * number))
    assert ready.running == {}


def test_revoked_build_is_not_handed_out_by_a_pool(ready: Server, place: Place) -> None:
    """A build that is revoked while sandboxes of it are ready is not handed out any more."""

    async def run() -> None:
        async with one(pool_size=1) as executor:
            await executor.execute({"code": "1"})
            await asyncio.sleep(1)
            revoke(place, "one")
            async with one_more.session():
                pass

    one_more = one(pool_size=1)
    with pytest.raises(RevokedError):
        asyncio.run(run())
