"""Sessions for callers that wait in their own thread."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builder.errors import InterpreterDiedError, InterruptedRunError, SandboxGoneError
from builder.sandbox.blocking import BlockingSession
from builder.sandbox.boundary import Boundary
from builder.system import processes
from builder.targets.local import place
from builder.targets.local.kernel import KernelSandbox
from builder.targets.local.session import LocalSession
from builder.targets.local.target import LocalTarget
from builder.targets.protocol import Opening

pytestmark = pytest.mark.network
SLEEPS = "import pathlib, time; pathlib.Path(%r).touch(); time.sleep(300)\n"


@pytest.fixture
def after() -> Iterator[None]:
    """The program is as if it had not been interrupted, for what comes next."""
    yield
    with processes.interruptible():
        pass


def open_loops() -> int:
    gc.collect()
    loops = [each for each in gc.get_objects() if isinstance(each, asyncio.AbstractEventLoop)]
    return sum(not loop.is_closed() for loop in loops)


def interrupted_when(there: Path, work: Callable[[], object]) -> BaseException | None:
    """What work in another thread raises when the program is interrupted once a file is there."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - it is looked at
            raised.append(error)

    thread = threading.Thread(target=run)
    with pytest.raises(KeyboardInterrupt), processes.interruptible():
        thread.start()
        while not there.exists():
            time.sleep(0.05)
        raise KeyboardInterrupt
    thread.join(60)
    assert not thread.is_alive()
    return raised[0] if raised else None


def test_closed_session_leaves_no_loop(ref: str) -> None:
    """A session that is closed, also twice, has closed its event loop, and runs nothing more."""
    before = open_loops()
    sandbox = LocalTarget().open(Opening(ref=ref, name="light"))
    assert sandbox.run("print(6 * 7)", timeout=30).stdout == "42\n"
    assert set(sandbox.timings) == {"created", "ready"}
    sandbox.close()
    sandbox.close()
    assert open_loops() == before


def test_session_of_a_dead_interpreter_says_how_it_died(ref: str) -> None:
    """Code that ends its interpreter is an error with its exit status; the next code finds none."""
    sandbox = LocalTarget().open(Opening(ref=ref, name="light"))
    with pytest.raises(InterpreterDiedError) as caught:
        sandbox.run("print('so far'); import os; os._exit(3)", timeout=30)
    assert caught.value.message == "the code ended its interpreter with exit status 3"
    with pytest.raises(SandboxGoneError):
        sandbox.run("1", timeout=30)
    sandbox.close()


@pytest.mark.usefixtures("after")
def test_interrupt_ends_running_code(ref: str, tmp_path: Path) -> None:
    """An interrupted program does not wait for code in a session, and the session can be closed."""
    started = tmp_path / "started"
    # Without walls, so that the code can say here that it has started.
    sandbox = LocalTarget(isolation="none").open(Opening(ref=ref, name="light"))
    error = interrupted_when(started, lambda: sandbox.run(SLEEPS % str(started), timeout=300))
    assert isinstance(error, InterruptedRunError | InterpreterDiedError)
    sandbox.close()


def test_opening_that_is_given_up_leaves_nothing(ref: str, tmp_path: Path) -> None:
    """A session that nobody waits for any more while its imports run is gone at once, and all of it."""
    started = tmp_path / "started"
    (tmp_path / "sleeps.py").write_text(SLEEPS % str(started))
    opened: list[KernelSandbox] = []
    before = open_loops()

    def start(given_up: threading.Event) -> KernelSandbox:
        with place.opened(ref, name="light") as path:
            env = {"PYTHONPATH": str(tmp_path)}
            opened.append(KernelSandbox(path, warm=["sleeps"], env=env, given_up=given_up))
        return opened[-1]

    async def cancelled() -> None:
        opening = asyncio.ensure_future(LocalSession.of(start))
        while not started.exists():
            await asyncio.sleep(0.05)
        opening.cancel()
        await opening

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())
    assert (opened, open_loops()) == ([], before)


@pytest.mark.usefixtures("after")
def test_interrupted_program_opens_nothing(ref: str) -> None:
    """A program that was interrupted opens no session any more, and keeps no loop of it."""
    before = open_loops()
    with pytest.raises(KeyboardInterrupt), processes.interruptible():
        raise KeyboardInterrupt
    with pytest.raises(InterruptedRunError):
        BlockingSession(
            lambda: LocalSession.open(ref, name="light", warm=(), env={}, boundary=Boundary())
        )
    assert open_loops() == before
