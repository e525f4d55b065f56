"""What a forked sandbox shares with others, and what it does not."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builder.runtime import CodeExecutionPrimitive
from builder.targets.local import launch, session
from tests.conftest import ROOT
from tests.support.clouds import Built, Place
from tests.support.sandboxes import build, wait_for_prepared, with_module

pytestmark = [
    pytest.mark.network,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks sandboxes"),
]
ODD = "import os\nHOME = os.path.expanduser('~')\nCACHE = os.environ['HF_HOME']\n"
EXITING = 0x4  # linux/sched.h
THREADS = "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"


@pytest.fixture
def built(
    place: Place,
    built_on: Callable[..., Built],
    local_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Place:
    """The project with the template `one`, built on this machine."""
    shutil.copytree(built_on("local", "one").folder, place.folder, dirs_exist_ok=True)
    monkeypatch.setenv("TEMPLATE_REGISTRY", str(place.folder / "registry.json"))
    launch._close_zygotes()  # those of earlier tests
    launch._zygotes.clear()
    return place


def one(**options: Any) -> CodeExecutionPrimitive:
    return CodeExecutionPrimitive(template_id="one", target="local", **options)


def printed(*codes: str) -> list[list[str]]:
    """What each code prints in two sandboxes that are open at once."""

    async def run() -> list[list[str]]:
        async with one() as first, one() as second:
            return [
                [(await executor.execute({"code": code}))["output"] for executor in (first, second)]
                for code in codes
            ]

    return asyncio.run(run())


@pytest.mark.slow
@pytest.mark.parametrize("isolation", ["confined", "none"])
def test_paths_kept_at_import_lead_to_the_own_home(
    built: Place, isolation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path of the home that a module keeps at its import is in each sandbox's own home."""
    monkeypatch.setenv("TEMPLATE_ISOLATION", isolation)
    build(built)
    with_module(built, "odd_home", ODD)
    homes, kept, *_ = printed(
        "import os; print(os.environ['HOME'])",
        "import odd_home, os; print(os.path.realpath(odd_home.HOME))",
    )
    assert homes == kept
    assert (homes[0] == homes[1] == "/home/user\n") == (isolation == "confined")
    written = printed(
        "import odd_home as odd, os; os.makedirs(odd.CACHE, exist_ok=True)\n"
        "print(os.listdir(odd.CACHE)); open(odd.CACHE + '/x', 'w')",
        "print(os.listdir(os.environ['HF_HOME']))",
    )
    assert written == [["[]\n", "[]\n"], ["['x']\n", "['x']\n"]]


def test_modules_are_there_already(built: Place) -> None:
    """A forked sandbox has the warm-up's modules, and nothing else of a name."""
    ((found, _),) = printed("import sys; print('idna' in sys.modules, 'idna' in globals())")
    assert found == "True False\n"


@pytest.mark.slow
def test_imports_that_leave_threads_are_not_forked(
    built: Place, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where imports leave threads running, each sandbox imports for itself, and that is said."""
    monkeypatch.setattr(session, "_not_forked", set())
    with_module(built, "odd_threads", THREADS)
    with caplog.at_level(logging.WARNING):
        ((found, _),) = printed("import sys; print('odd_threads' in sys.modules)")
    assert found == "True\n"
    assert (
        "each sandbox of one imports for itself: the warm-up imports leave threads" in caplog.text
    )


@pytest.mark.slow
def test_zygote_that_was_killed_is_replaced(built: Place) -> None:
    """When the guard of the process that forks is killed, that goes with it, its sandboxes end, and
    the next one has a new one."""
    folders: list[str] = []

    async def run() -> str:
        async with one() as executor:
            await executor.execute({"code": "1"})
        for zygote in launch._zygotes.values():
            folders.append(str(zygote.folder))
            zygote._process._guard.send_signal(signal.SIGKILL)
        async with one() as executor:
            return (await executor.execute({"code": "print(1)"}))["output"]

    assert asyncio.run(run()) == "1\n"
    assert folders
    deadline = time.monotonic() + 120
    while (left := [f for f in folders if zygotes(f)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []


def zygotes(folder: str) -> list[str]:
    """The processes that fork kernels for this folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if f"\0{folder}\0" in path.read_bytes().decode(errors="replace"):
                found.append(path.parent.name)
    return found


def children(pid: int) -> list[int]:
    return [int(p) for p in os.listdir("/proc") if p.isdigit() and parent(p) == pid]


def descendants(pid: int) -> list[int]:
    below = children(pid)
    return below + [further for child in below for further in descendants(child)]


def runs(pid: int) -> bool:
    """Whether a process is there, and is not dead or dying already: the first one of a namespace
    is there until all others of it were reaped."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except OSError:
        return False
    state, *_, flags = stat.rpartition(")")[2].split()[:7]
    return state != "Z" and not int(flags) & EXITING


class Deadly(socket.socket):
    """A connection to a zygote that is killed at one moment of it."""

    moment = ""
    times = 0

    def connect(self, address: Any) -> None:
        (zygote,) = (z for z in launch._zygotes.values() if address == f"{z.folder}/zygote")
        (child,) = children(zygote._process._guard.pid)
        (child,) = children(child) or (child,)  # of bubblewrap
        self.guard = zygote._process._guard.pid
        if self.moment == "looked at":
            self.kill(child)
        elif self.moment == "connected":
            os.kill(child, signal.SIGSTOP)  # so that nobody takes the connection up
        super().connect(address)
        if self.moment == "connected":
            self.kill(child)

    @staticmethod
    def recv_fds(line: Deadly, *options: int) -> Any:
        received = socket.recv_fds(line, *options)
        if line.moment == "answered":
            line.kill(line.guard)
        return received

    def kill(self, pid: int) -> None:
        if Deadly.times:
            Deadly.times -= 1
            dying = [pid, *descendants(pid)]  # a forked kernel, too: nothing is executed in it
            os.kill(pid, signal.SIGKILL)
            while any(runs(process) for process in dying):
                time.sleep(0.01)
        elif self.moment == "connected":
            os.kill(pid, signal.SIGCONT)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["looked at", "connected", "answered"])
@pytest.mark.parametrize("times", [1, 2])
def test_zygote_that_dies_at_any_moment_is_replaced(
    built: Place, moment: str, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sandbox is opened although the process that forks it dies after it was looked at, before it
    has taken up the connection, or right after its answer, once or twice."""
    names = ("AF_UNIX", "MSG_CMSG_CLOEXEC", "SHUT_WR")
    deadly = types.SimpleNamespace(**{name: getattr(socket, name) for name in names})
    deadly.socket, deadly.recv_fds = Deadly, Deadly.recv_fds

    async def run() -> str:
        async with one():
            pass
        monkeypatch.setattr(Deadly, "moment", moment)
        monkeypatch.setattr(Deadly, "times", times)
        monkeypatch.setattr(launch, "socket", deadly)
        async with one() as executor:
            return (await executor.execute({"code": "print(1)"}))["output"]

    assert asyncio.run(run()) == "1\n"
    assert Deadly.times == 0


@pytest.mark.slow
def test_zygote_that_is_killed_while_it_imports_is_replaced(
    built: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sandbox opens even if the zygote is killed while it imports."""
    monkeypatch.setenv("TEMPLATE_ISOLATION", "none")  # a module leaves a mark outside
    begun = tmp_path / "begun"
    slow = f"import pathlib, time\nbegun = pathlib.Path({str(begun)!r})\n"
    with_module(
        built, "odd_once", f"{slow}if not begun.exists():\n    begun.touch(); time.sleep(600)\n"
    )

    async def run() -> str:
        opening = asyncio.create_task(once("print(1)"))
        while not begun.exists():
            await asyncio.sleep(0.01)
        for zygote in launch._zygotes.values():
            if not (zygote.folder / "zygote").exists() and zygote.alive():
                os.kill(children(zygote._process._guard.pid)[0], signal.SIGKILL)
        return await opening

    async def once(code: str) -> str:
        async with one() as executor:
            return (await executor.execute({"code": code}))["output"]

    assert asyncio.run(run()) == "1\n"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_survives_the_application(
    built: Place, number: signal.Signals, tmp_path: Path
) -> None:
    """An application that is killed leaves no process and no folder, pool or not."""
    program = (
        "import asyncio, os\n"
        "from builder.runtime import CodeExecutionPrimitive\n"
        "async def main():\n"
        "    async with CodeExecutionPrimitive(template_id='one', target='local', pool_size=2, isolation='none') as e:\n"
        "        r = await e.execute({'code': 'import os, subprocess; p = subprocess.Popen("
        '["setsid", "sleep", "1000"]); print(os.getcwd(), os.getpid(), p.pid)\'})\n'
        "        print(r['output'], flush=True)\n"
        "        await asyncio.sleep(1000)\n"
        "asyncio.run(main())\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout
    folder, *pids = process.stdout.readline().split()
    process.send_signal(number)
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 120
    left: Callable[[], list[str]] = lambda: [p for p in pids if Path(f"/proc/{p}").exists()]  # noqa: E731
    while (left() or Path(folder).parents[1].exists()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left() == []
    assert not Path(folder).parents[1].exists()


@pytest.mark.slow
def test_many_sandboxes_leave_nothing(built: Place) -> None:
    """Twelve sandboxes one after another, and eight at once, leave no process and no descriptor."""

    def now() -> tuple[int, int]:
        below = [p for p in os.listdir("/proc") if p.isdigit() and parent(p) == os.getpid()]
        return len(os.listdir("/proc/self/fd")), len(below)

    async def run() -> list[tuple[int, int]]:
        found = []
        for number in range(12):
            async with one() as executor:
                await executor.execute({"code": "1"})
            if number in (3, 11):
                await asyncio.to_thread(wait_for_prepared)
                found.append(now())

        async def once() -> None:
            async with one() as executor:
                await executor.execute({"code": "1"})

        await asyncio.gather(*(once() for _ in range(8)))
        await asyncio.to_thread(wait_for_prepared)
        found.append(now())
        return found

    before, sequential, concurrent = asyncio.run(run())
    assert sequential <= before
    assert concurrent <= before


def parent(pid: str) -> int:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[1])


@pytest.mark.slow
def test_modules_find_shared_memory_when_they_are_imported(built: Place) -> None:
    """A module that makes a lock for processes while it is imported can do so behind the walls."""
    build(built)
    with_module(built, "locks", "import multiprocessing\nLOCK = multiprocessing.Lock()\n")
    [usable] = printed("import locks\nwith locks.LOCK: print('held')")
    assert usable == ["held\n", "held\n"]
