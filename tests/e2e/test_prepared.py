"""Sandboxes that are prepared before they are needed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from builder.runtime import CodeExecutionPrimitive
from builder.targets.local import launch
from builder.targets.local.prepared import PreparedSandbox
from tests.conftest import ROOT
from tests.support.runs import until
from tests.support.sandboxes import wait_for_prepared

pytestmark = [
    pytest.mark.network,
    pytest.mark.usefixtures("local_one", "no_zygotes"),
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks sandboxes"),
]
ISOLATIONS = ["confined", pytest.param("none", marks=pytest.mark.slow)]


@pytest.fixture
def no_zygotes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Begin without zygotes of other tests, and end those of this one."""
    monkeypatch.setattr(launch, "_zygotes", {})
    yield
    launch._close_zygotes()


def primitive(**options: Any) -> CodeExecutionPrimitive:
    return CodeExecutionPrimitive(template_id="one", target="local", **options)


async def printed(executor: CodeExecutionPrimitive, code: str) -> str:
    execution = await executor.execute({"code": code})
    assert execution["success"], execution
    return str(execution["output"])


async def used(executor: CodeExecutionPrimitive) -> str:
    """Return the ID of the sandbox that code runs in."""
    execution = await executor.execute({"code": "1"})
    assert execution["success"], execution
    return str(execution["sandbox_id"])


async def opened_twice(executor: CodeExecutionPrimitive) -> PreparedSandbox:
    """Open two sandboxes one after another; return the one that is prepared then."""
    for _ in range(2):
        async with executor.session() as session:
            await used(session)
    return await asyncio.to_thread(prepared)


def prepared() -> PreparedSandbox:
    """Return the sandbox that is prepared for the next caller."""
    wait_for_prepared()
    (zygote,) = launch._zygotes.values()
    assert zygote.spare._made
    return zygote.spare._made.result()


def keeper_and_kernel(sandbox: PreparedSandbox) -> tuple[psutil.Process, psutil.Process]:
    assert sandbox._forked
    kernel = psutil.Process(sandbox._forked.pid)
    keeper = kernel.parent()
    assert keeper
    return keeper, kernel


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_third_sandbox_was_prepared(isolation: Any) -> None:
    """A program's third sandbox, and each later one, runs in the process that waited for it, and
    draws random numbers of its own."""
    draw = "import os, random; print(os.getpid(), random.random())"

    async def run() -> None:
        async with primitive(isolation=isolation) as executor:
            await opened_twice(executor)
            drawn = set()
            for _ in range(2):
                waiting = await asyncio.to_thread(prepared)
                async with executor.session() as session:
                    folder = waiting.folder
                    assert await used(session) == folder.name
                    process, number = (await printed(session, draw)).split()
                    if isolation == "none":
                        assert int(process) == keeper_and_kernel(waiting)[1].pid
                    drawn.add(number)
                assert not folder.exists()
            assert len(drawn) == 2

    asyncio.run(run())


@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("victim", ["keeper", "kernel"])
@pytest.mark.parametrize(
    "moment", ["before", pytest.param("while it is taken", marks=pytest.mark.slow)]
)
def test_prepared_sandbox_that_was_killed_is_not_used(
    isolation: Any, victim: str, moment: str
) -> None:
    """If the process that waits is killed, or the one that watches it, before or while the sandbox
    is taken, the next sandbox has others, and nothing of the first is left."""

    async def run() -> None:
        async with primitive(isolation=isolation) as executor:
            waiting = await opened_twice(executor)
            keeper, kernel = keeper_and_kernel(waiting)
            (keeper if victim == "keeper" else kernel).kill()
            if moment == "before":
                # The application can know then that it has ended.
                await asyncio.to_thread(until, lambda: not waiting.usable())
            async with executor.session() as session:
                assert await used(session) != waiting.folder.name
            assert not waiting.folder.exists()

    asyncio.run(run())


def test_sandbox_with_another_network_is_not_the_prepared_one() -> None:
    """A sandbox that is opened with another network is made anew; its network is its own."""

    async def run() -> None:
        async with primitive(isolation="confined") as closed:
            waiting = await opened_twice(closed)
            assert not any(name.endswith("PROXY") for name in waiting._variables)
            for _ in range(2):
                async with primitive(isolation="confined", network="allow") as opened:
                    proxy = await printed(opened, "import os; print(os.environ['HTTP_PROXY'])")
                    assert proxy == "http://127.0.0.1:3128\n"
            after = await asyncio.to_thread(prepared)
            assert "HTTP_PROXY" in after._variables
            assert not waiting.folder.exists()
            async with closed.session() as session:
                variables = "import os; print([n for n in os.environ if n.endswith('PROXY')])"
                assert await printed(session, variables) == "[]\n"

    asyncio.run(run())


def test_variables_are_those_of_its_opening(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox has the application's time zone of when it is opened, not of when it was
    prepared."""

    async def run() -> None:
        async with primitive(isolation="confined") as executor:
            await opened_twice(executor)
            monkeypatch.setenv("TZ", "Asia/Kathmandu")
            async with executor.session() as session:
                zone = await printed(session, "import os; print(os.environ.get('TZ'))")
                assert zone == "Asia/Kathmandu\n"

    asyncio.run(run())


@pytest.mark.slow
def test_waiting_sandbox_takes_no_time() -> None:
    """A waiting sandbox uses no processor time: none of its processes wakes up."""

    async def run() -> None:
        async with primitive(isolation="confined") as executor:
            processes = keeper_and_kernel(await opened_twice(executor))
            deadline, before = time.monotonic() + 30, [0]
            while (now := [switches(process) for process in processes]) != before:
                assert time.monotonic() < deadline
                before = now
                await asyncio.sleep(2)

    asyncio.run(run())


def switches(process: psutil.Process) -> int:
    counted = process.num_ctx_switches()
    return int(counted.voluntary + counted.involuntary)


PROGRAM = """
import asyncio, sys
from builder.runtime import CodeExecutionPrimitive
from builder.targets.local import launch
async def main():
    async with CodeExecutionPrimitive(template_id='one', target='local', isolation=sys.argv[1]) as e:
        for _ in range(2):
            async with e.session() as session:
                await session.execute({'code': '1'})
        (zygote,) = launch._zygotes.values()
        waiting = zygote.spare._made.result()
        print(waiting.folder, waiting._forked.pid, flush=True)
        await asyncio.sleep(1000 if sys.argv[2] == 'wait' else 0)
asyncio.run(main())
"""


@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("end", ["killed", "of itself"])
def test_nothing_of_it_outlives_the_program(isolation: str, end: str) -> None:
    """A prepared sandbox that nobody has used ends with its program, with its folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, isolation, "wait" if end == "killed" else "end"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout
    folder, kernel = process.stdout.readline().split()
    if end == "killed":
        process.send_signal(signal.SIGKILL)
    assert process.wait(60) == (-signal.SIGKILL if end == "killed" else 0)
    process.stdout.close()
    until(lambda: not Path(folder).exists() and not Path(f"/proc/{kernel}").exists(), 10)


def test_forked_program_leaves_it_to_its_parent() -> None:
    """A process that the program forks does not end what is prepared for the program."""

    async def run() -> None:
        async with primitive(isolation="confined") as executor:
            waiting = await opened_twice(executor)
            end_all_in_a_child()
            async with executor.session() as session:
                assert await used(session) == waiting.folder.name

    asyncio.run(run())


def end_all_in_a_child() -> None:
    """Fork this process, and do what the child does at its exit."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            launch._close_zygotes()
        os._exit(0)
    os.waitpid(child, 0)
