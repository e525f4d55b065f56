"""With `zygote = "keep"`, the next program forks its first sandbox from a warm process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from builder.errors import SandboxError
from builder.runtime import CodeExecutionPrimitive
from builder.targets.local import kept, launch
from tests.conftest import ROOT
from tests.support.clouds import Built, Place
from tests.support.sandboxes import alive, gone

pytestmark = [
    pytest.mark.network,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks sandboxes"),
]
# In a sandbox without walls: its zygote is the parent of its parent.
ZYGOTE = "import os; print(open(f'/proc/{os.getppid()}/stat').read().rpartition(')')[2].split()[1])"
PROGRAM = """
import asyncio, os, signal, sys
from builder.runtime import CodeExecutionPrimitive
from builder.targets.local import kept, launch
kept.IDLE_SECONDS = float(sys.argv[2])
async def main():
    executor = CodeExecutionPrimitive(template_id="one", target="local", isolation=sys.argv[1])
    async with executor:
        print((await executor.execute({"code": sys.argv[3]}))["output"], flush=True)
        if len(sys.argv) > 4:
            for _ in range(2):
                async with executor.session() as further:
                    await further.execute({"code": "1"})
            (zygote,) = launch._zygotes.values()
            assert zygote.spare._made.result().usable()
            if sys.argv[4] == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


@pytest.fixture
def folder(
    place: Place,
    built_on: Callable[..., Built],
    local_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Path]:
    """Return the folder of the kept zygotes of the template `one`, which end with the test."""
    shutil.copytree(built_on("local", "one").folder, place.folder, dirs_exist_ok=True)
    monkeypatch.setenv("TEMPLATE_REGISTRY", str(place.folder / "registry.json"))
    monkeypatch.setenv("TEMPLATE_ZYGOTE", "keep")
    short = Path(f"/tmp/kept-{os.getpid()}-{time.time_ns()}")
    short.mkdir(mode=0o700)
    monkeypatch.setattr(kept, "short_folder", lambda: str(short))
    monkeypatch.setenv("TMPDIR", str(short))
    monkeypatch.setattr(kept, "IDLE_SECONDS", 0.5)
    monkeypatch.setattr(launch, "_zygotes", {})
    yield short / f".zygotes-{os.getuid()}"
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            command = process.cmdline()
            # Not its guard, which removes the folder.
            if "zygote" in command and str(short) in " ".join(command) and "-I" not in command:
                process.kill()
    assert emptied(short), "a kept zygote has not ended"
    shutil.rmtree(short)


def emptied(folder: Path) -> bool:
    """Return whether the zygotes have ended, and their folders are gone, within a time."""
    deadline = time.monotonic() + 60
    while list(folder.glob(".zygotes-*/*/")) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not list(folder.glob(".zygotes-*/*/"))


def ran(code: str, *more: str, isolation: str = "none", idle: float = 60) -> str:
    command = [sys.executable, "-c", PROGRAM, isolation, str(idle), code, *more]
    finished = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert finished.returncode in (0, -signal.SIGKILL), finished.stderr
    return finished.stdout.strip()


def primitive(**options: Any) -> CodeExecutionPrimitive:
    return CodeExecutionPrimitive(template_id="one", target="local", isolation="none", **options)


async def run_in(executor: CodeExecutionPrimitive, code: str) -> str:
    execution = await executor.execute({"code": code})
    assert execution["success"], execution
    return execution["output"].strip()


@pytest.mark.slow
def test_the_second_program_uses_the_zygote_of_the_first(folder: Path) -> None:
    """Sandboxes of two programs are forked from one zygote, which ends when no program uses it."""
    first, second = ran(ZYGOTE), ran(ZYGOTE)
    assert first == second
    assert alive(int(first))


@pytest.mark.slow
def test_idle_zygote_ends(folder: Path) -> None:
    """A zygote without sandboxes ends after a time, and its folder is removed."""
    assert gone(int(ran(ZYGOTE, idle=0.2)), 60)
    assert emptied(folder.parent)


@pytest.mark.slow
def test_zygotes_end_with_their_program_unless_they_are_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the setting, no zygote outlives its program."""
    monkeypatch.setenv("TEMPLATE_ZYGOTE", "end")
    assert gone(int(ran(ZYGOTE)), 1)
    assert not folder.exists()


@pytest.mark.slow
@pytest.mark.parametrize("end", ["killed", "of itself"])
@pytest.mark.parametrize("isolation", ["none", "confined"])
def test_program_leaves_no_sandbox(folder: Path, isolation: str, end: str) -> None:
    """The sandboxes of a program, and those prepared for it, are gone with their folders within a
    second of its end. The zygote goes on, and the next program uses it."""
    code = "import os, time; open('kept', 'w'); print(os.getpid())"
    ran(code, end, isolation=isolation)
    deadline = time.monotonic() + 1
    while list(folder.glob("*/s-*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not list(folder.glob("*/s-*"))
    (zygote,) = folder.glob("*/zygote")
    before = zygote.stat().st_ino
    assert ran("print(1)", isolation=isolation) == "1"
    assert zygote.stat().st_ino == before


@pytest.mark.slow
def test_zygote_with_an_open_sandbox_does_not_end(folder: Path) -> None:
    """A zygote does not end while a sandbox is open, however long ago that was opened."""

    async def run() -> tuple[str, str]:
        async with primitive() as executor:
            before = await run_in(executor, ZYGOTE)
            await asyncio.sleep(2)
            return before, await run_in(executor, ZYGOTE)

    before, after = asyncio.run(run())
    assert before == after


@pytest.mark.slow
def test_killed_zygote_is_replaced(folder: Path) -> None:
    """If its zygote is killed, a program opens its next sandbox from a new one."""

    async def run() -> None:
        async with primitive() as executor:
            zygote = int(await run_in(executor, ZYGOTE))
            os.kill(zygote, signal.SIGKILL)
            assert gone(zygote)
            async with executor.session() as further:
                assert int(await run_in(further, ZYGOTE)) != zygote

    asyncio.run(run())


def test_folder_that_others_can_write_to_is_refused(folder: Path) -> None:
    """A folder that other users can write to is not used for zygotes."""
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)

    async def run() -> None:
        async with primitive():
            pass

    with pytest.raises(SandboxError) as caught:
        asyncio.run(run())
    assert caught.value.message == (
        f"{folder} is not a folder that you alone can enter, so no process is kept in it"
    )
    assert caught.value.hint == 'remove it, or leave out `zygote = "keep"`'
    folder.rmdir()
