"""Code of `local` that runs out of time, synchronous and asynchronous."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from builder.targets.local.kernel import KernelSandbox
from builder.targets.local.launch import KernelProcess
from tests.support.options import rounds
from tests.support.sandboxes import printed

pytestmark = pytest.mark.network
BLOCKING = "import asyncio, time\nasync def block(): time.sleep(60)\n"
DEEP = """
import asyncio
x = 1
async def deep(levels):
    if levels:
        await deep(levels - 1)
    while True:
        await asyncio.sleep(0)
"""
SWALLOWING = (
    "import asyncio\n"
    "async def swallow():\n"
    "    try: await asyncio.sleep(60)\n"
    "    except asyncio.CancelledError: print('again')\n"
    "    await asyncio.sleep(60)\n"
    "await swallow()"
)


class Interrupts:
    """A kernel's process whose interrupts are counted, and can be held back."""

    def __init__(self, process: KernelProcess) -> None:
        self._process, self.sent, self.held_back = process, 0, False

    def interrupt(self) -> None:
        self.sent += 1
        if not self.held_back:
            self._process.interrupt()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._process, name)


@pytest.fixture
def interrupts(kept_sandbox: KernelSandbox, monkeypatch: pytest.MonkeyPatch) -> Interrupts:
    assert kept_sandbox._process
    interrupts = Interrupts(kept_sandbox._process)
    monkeypatch.setattr(kept_sandbox, "_process", interrupts)
    return interrupts


@pytest.mark.parametrize(
    "code",
    [
        "import asyncio\nawait asyncio.sleep(60)",
        "import asyncio\nawait asyncio.gather(*(asyncio.sleep(60) for _ in range(5)))",
        "import asyncio\nawait asyncio.wait_for(asyncio.sleep(60), 50)",
        "import asyncio\nawait asyncio.get_running_loop().run_in_executor(None, lambda: 1)\n"
        "await asyncio.Event().wait()",
        BLOCKING + "await block()",
        BLOCKING + "await asyncio.gather(block())",
        BLOCKING + "asyncio.get_running_loop().call_soon(time.sleep, 60)\nawait asyncio.sleep(60)",
        BLOCKING + "later = asyncio.create_task(block())\nawait asyncio.sleep(60)",
        "import time\ntime.sleep(60)",
        "while True: pass",
        "while True: print(1)",
        "import subprocess; subprocess.run(['sleep', '60'])",
        "class Odd(Exception):\n    def __str__(self):\n        while True: pass\nraise Odd",
    ],
)
def test_code_is_interrupted_at_once(
    kept_sandbox: KernelSandbox, interrupts: Interrupts, code: str
) -> None:
    """Code that runs out of time ends then, whatever it waits for, and what was there before is
    still there."""
    kept_sandbox.run("x = 1", timeout=60)
    execution = kept_sandbox.run(code, timeout=0.5)
    assert (execution.timed_out, execution.lost, interrupts.sent) == (True, False, 1)
    assert printed(kept_sandbox, "print(x)") == "1\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        SWALLOWING,
        "import time\n"
        "try: time.sleep(60)\n"
        "except KeyboardInterrupt: print('again')\n"
        "time.sleep(60)",
    ],
)
def test_code_that_swallows_an_interrupt_has_another(
    kept_sandbox: KernelSandbox, code: str
) -> None:
    """Code that catches one interrupt and goes on is interrupted again, and keeps its session."""
    kept_sandbox.run("x = 1", timeout=60)
    execution = kept_sandbox.run(code, timeout=0.5)
    assert (execution.timed_out, execution.lost, execution.stdout) == (True, False, "again\n")
    assert printed(kept_sandbox, "print(x)") == "1\n"


def test_tasks_of_earlier_code_go_on(kept_sandbox: KernelSandbox) -> None:
    """A time-out ends the code that ran out of time, and no task that code has left running."""
    later = (
        "import asyncio\n"
        "async def later():\n"
        "    await asyncio.sleep(1)\n"
        "    return 'done'\n"
        "task = asyncio.create_task(later())\n"
        "await asyncio.sleep(60)"
    )
    assert kept_sandbox.run(later, timeout=0.3).timed_out
    assert printed(kept_sandbox, "print(await task)") == "done\n"


def test_signal_of_the_code_is_its_own(sandbox: KernelSandbox) -> None:
    """SIGINT that code sends to itself is a KeyboardInterrupt, and its handler is called."""
    own = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nprint('not this')"
    execution = sandbox.run(own, timeout=60)
    assert (execution.error, execution.stdout) == ("KeyboardInterrupt: ", "")
    handled = f"import signal; signal.signal(signal.SIGINT, lambda *_: print('handled'))\n{own}"
    assert printed(sandbox, handled) == "handled\nnot this\n"


@pytest.mark.slow
def test_late_interrupt_leaves_the_next_code_alone(
    kept_sandbox: KernelSandbox, interrupts: Interrupts
) -> None:
    """An interrupt that arrives after the end of the code that it was for ends no other."""
    interrupts.held_back = True
    assert kept_sandbox.run("import time; time.sleep(1)", timeout=0.5).timed_out
    assert interrupts.sent == 1
    interrupts.held_back = False
    asyncio.run(_interrupted_during(kept_sandbox, interrupts))


async def _interrupted_during(kept_sandbox: KernelSandbox, interrupts: Interrupts) -> None:
    running = asyncio.create_task(
        asyncio.to_thread(
            printed, kept_sandbox, "open('begun', 'w'); time.sleep(2); print('whole')"
        )
    )
    while not (kept_sandbox.home / "begun").exists():
        await asyncio.sleep(0.01)
    interrupts.interrupt()
    assert await running == "whole\n"


@pytest.mark.chance
def test_many_timeouts_lose_nothing(kept_sandbox: KernelSandbox) -> None:
    """Of many time-outs in one session, of synchronous and asynchronous code at its end and in the
    middle of it, none loses the session, and none reaches the next code."""
    kept_sandbox.run("import asyncio, time; x = 1", timeout=60)
    codes = [
        "while True: pass",
        "await asyncio.sleep(60)",
        "time.sleep(60)",
        "time.sleep(0.02); print('end')",
        "await asyncio.sleep(0.02); print('end')",
    ]
    for number in range(rounds(50)):
        execution = kept_sandbox.run(codes[number % len(codes)], timeout=0.02)
        assert not execution.lost, (number, execution)
        if number % 25 == 24:
            assert printed(kept_sandbox, "print(x)") == "1\n"


@pytest.mark.chance
@pytest.mark.parametrize(
    "code",
    [
        "await deep(0)",
        "await deep(50)",
        "await asyncio.gather(deep(0), deep(1))",
        "await asyncio.wait_for(deep(1), 60)",
    ],
)
def test_busy_asynchronous_code_loses_nothing(kept_sandbox: KernelSandbox, code: str) -> None:
    """Of many time-outs of code that never waits for long, and is resumed all the time through what
    runs it, none loses the session."""
    kept_sandbox.run(DEEP, timeout=60)
    for number in range(rounds(20)):
        execution = kept_sandbox.run(code, timeout=0.02 + number % 50 / 5000)
        assert (execution.timed_out, execution.lost) == (True, False), (number, execution)
    assert printed(kept_sandbox, "print(x)") == "1\n"
