"""Files of a sandbox on E2B, when something on the way goes wrong."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from builder.errors import NetworkError, SandboxError, SandboxFileError, SandboxGoneError
from builder.runtime import CodeExecutionPrimitive
from tests.conftest import ROOT
from tests.support.e2b_server import Fault, Server
from tests.support.e2b_server.envd import Machine
from tests.support.execution import one, within
from tests.support.files import grown

pytestmark = pytest.mark.network
LISTING = "POST /filesystem.Filesystem/ListDir"


def machine(server: Server) -> Machine:
    (running,) = server.running.values()
    return running.machine


@pytest.mark.parametrize("version", ["0.5.0", "0.3.9"])
def test_template_with_an_older_file_service(ready: Server, version: str) -> None:
    """What takes no streams yet gets forms: all is written, and where it fails nothing is left."""
    ready.envd_version = version

    async def failing() -> AsyncIterator[bytes]:
        yield b"new"
        raise RuntimeError("the source is gone")

    async def steps(executor: CodeExecutionPrimitive) -> None:
        for content in (b"", b"\r\n--x", b"x" * 3_000_000):
            await executor.files.write("in/a", content)
            assert await executor.files.read("in/a") == content
        with pytest.raises(RuntimeError):
            await executor.files.write("in/a", failing())
        assert [entry.size for entry in await executor.files.list("in")] == [3_000_000]

    within(one(), steps)


def test_full_disk_there(ready: Server) -> None:
    """Where the machine has no room the error says so, the old file stays, and no part of the new
    one."""

    async def steps(executor: CodeExecutionPrimitive) -> None:
        await executor.files.write("a", "old")
        machine(ready).disk_bytes = 1_000_000
        with pytest.raises(SandboxFileError) as failed:
            await executor.files.write("a", b"x" * 4_000_000)
        assert str(failed.value) == (
            "the sandbox's disk is full: there is no room for `a`\n\nhint: remove files of the sandbox"
        )
        assert [(entry.path, entry.size) for entry in await executor.files.list()] == [("a", 3)]

    within(one(), steps)


def test_file_that_shrinks_there(ready: Server) -> None:
    """A file that loses content while it is read is told."""

    async def steps(executor: CodeExecutionPrimitive) -> None:
        await executor.execute({"code": "import os; open('a', 'wb').write(os.urandom(30_000_000))"})
        with pytest.raises(
            SandboxFileError,
            match="`a` changed while it was read: it had 30,000,000 bytes, and then only",
        ):
            async with executor.files.stream("a") as chunks:
                async for _ in chunks:
                    os.truncate(f"{machine(ready).home}/a", 1000)

    within(one(), steps)


def test_paths_outside_of_the_working_folder(ready: Server) -> None:
    """The machine is the sandbox's own: every absolute path of it can be used, and `..`."""

    async def steps(executor: CodeExecutionPrimitive) -> list[str]:
        await executor.files.write("/srv/data/a.txt", "x")
        await executor.files.write("../b.txt", "yy")
        listed = await executor.files.list("/srv/data") + await executor.files.list("/home")
        return [entry.path for entry in listed]

    assert within(one(), steps) == ["/srv/data/a.txt", "/home/b.txt", "."]


def test_execution_costs_one_listing(ready: Server) -> None:
    """The files that there are before are listed once, and again after each execution."""

    async def steps(executor: CodeExecutionPrimitive) -> None:
        for _ in range(3):
            await executor.execute({"code": "1 + 1"})

    within(one(), steps)
    assert ready.front.requests.count(LISTING) == 4


def test_listing_that_fails_costs_no_result(
    ready: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """When the files cannot be listed the result is there without, and the next one has them."""

    async def steps(executor: CodeExecutionPrimitive) -> list[list[str]]:
        ready.front.faults.append(Fault(LISTING, "status", code=500))
        names = []
        for name in "ab":
            result = await executor.execute({"code": f"open('{name}', 'w'); print(1)"})
            assert result["output"] == "1\n"
            names.append([entry.path for entry in result["files"]])
        return names

    assert within(one(), steps) == [[], ["a", "b"]]
    assert "cannot be listed" in caplog.text


def test_sandbox_that_is_gone(ready: Server) -> None:
    """A call on files of a sandbox that has ended says so; the next call has another one."""

    async def steps(executor: CodeExecutionPrimitive) -> None:
        await executor.files.write("a", "x")
        for running in list(ready.running.values()):
            ready.end(running)
        with pytest.raises(SandboxGoneError, match="the sandbox is gone"):
            await executor.files.read("a")
        assert await executor.files.list() == []

    within(one(), steps)


@pytest.mark.parametrize("kind", ["reset before", "reset after", "truncated"])
@pytest.mark.parametrize(
    "request_", ["GET /files", "POST /files", "POST /filesystem.Filesystem/.*"]
)
def test_connection_that_is_lost(ready: Server, request_: str, kind: Any) -> None:
    """A connection that is lost is told as such or made up for, and hurts no file."""

    async def steps(executor: CodeExecutionPrimitive) -> None:
        files = executor.files
        content = os.urandom(300_000)
        await files.write("a", b"old")
        fault = Fault(request_, kind)
        ready.front.faults.append(fault)
        try:
            await files.write("a", content)
        except (NetworkError, SandboxFileError, SandboxError):
            assert await files.read("a") in (b"old", content)
            await files.write("a", content)
        try:
            assert await files.read("a") == content
        except (NetworkError, SandboxFileError, SandboxError):
            assert await files.read("a") == content
        assert fault.happened

    within(one(), steps)


def test_cancelled_write_leaves_nothing(ready: Server) -> None:
    """A write that is cancelled leaves the old file and no part of the new one."""

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 1000
            await asyncio.sleep(0.01)

    async def steps(executor: CodeExecutionPrimitive) -> None:
        await executor.files.write("a", b"old")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await executor.files.write("a", endless())
        assert await executor.files.read("a") == b"old"
        assert [entry.path for entry in await executor.files.list()] == ["a"]

    within(one(), steps)


COPY = """
import asyncio, pathlib, sys
from builder.runtime import CodeExecutionPrimitive

def peak():
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])

async def main():
    folder = pathlib.Path(sys.argv[2])
    async with CodeExecutionPrimitive(template_id="one", target="e2b") as executor:
        for name in ("small", "large"):
            await executor.files.upload(folder / name)
            await executor.files.download(name, folder / "back")
            print(peak())

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("version", ["0.6.13", "0.5.0"])
def test_large_files_pass_through(ready: Server, tmp_path: Path, version: str) -> None:
    """200 MB to E2B and back take a few MiB of the application's memory."""
    ready.envd_version = version

    def run(code: str, *arguments: str) -> str:
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout

    folder = tmp_path / "local"
    folder.mkdir()
    assert grown(folder, folder, run=run) < 8_000
    assert (folder / "back").stat().st_size == 200_000_000
    with open(folder / "back", "rb") as back:
        back.seek(150_000_000)
        assert back.read(4) == b"mark"
