"""A pool belongs to the event loop that it was made in, and ends with it."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builder.runtime.pool import Pool
from builder.targets.local import launch
from tests.support.clouds import Opened
from tests.support.e2b_server import Server
from tests.support.execution import full

pytestmark = pytest.mark.network


def alive(kind: type) -> list[Any]:
    gc.collect()
    # By its class: some objects of libraries wake up when they are asked what they are.
    return [instance for instance in gc.get_objects() if issubclass(type(instance), kind)]


def kept() -> tuple[int, int]:
    """How many pools there are, and closed event loops."""
    loops = alive(asyncio.AbstractEventLoop)
    return len(alive(Pool)), sum(loop.is_closed() for loop in loops)


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
        time.sleep(0.05)


def test_pools_end_with_their_loops(open_one: Opened, cloud: Server) -> None:
    """Of programs that each run an event loop with a pool nothing is left: no pool, no closed loop,
    no sandbox."""
    before = kept()

    async def run() -> None:
        async with open_one(pool_size=1) as executor, executor.session() as other:
            for each in (executor, other):
                assert (await each.execute({"code": "print(1)"}))["output"] == "1\n"

    for number in range(12):
        if number % 4 == 3:
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
