from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builder.errors import InterpreterDiedError, SandboxError, SandboxFileError
from builder.render import Rendered
from builder.targets.local.files import LocalFiles
from builder.targets.local.kernel import KernelSandbox
from tests.escape.attempt import PRELUDE
from tests.escape.opening import NEEDS_WALLS, open_sandbox
from tests.escape.outside import outside

pytestmark = NEEDS_WALLS


@pytest.fixture(scope="module")
def facts() -> Iterator[dict[str, Any]]:
    with outside() as facts:
        yield facts


@pytest.fixture
def sandbox(facts: dict[str, Any], light: Rendered, ref: str) -> Iterator[KernelSandbox]:
    with contextlib.closing(open_sandbox("forked", light, ref, "confined")) as sandbox:
        assert sandbox.run(f"facts = {facts!r}\n{PRELUDE}", timeout=60).error is None
        yield sandbox


def run(sandbox: KernelSandbox, code: str) -> None:
    execution = sandbox.run(code, timeout=60)
    assert execution.error is None, execution.traceback


def test_files_are_not_read_or_written_through_links(
    sandbox: KernelSandbox, facts: dict[str, Any]
) -> None:
    """The host follows no link out of a sandbox's home, and does not wait for a pipe in it."""
    run(
        sandbox,
        """
        os.symlink(facts["secret"], "file")
        os.symlink(os.path.dirname(facts["secret"]), "folder")
        os.symlink("/proc/self/cwd/../../../.." + facts["secret"], "proc")
        os.mkfifo("pipe")
        """,
    )
    files = LocalFiles(sandbox.home, sandbox.fetched)

    async def read(path: str) -> bytes:
        async with files.read(path) as incoming:
            return b"".join([chunk async for chunk in incoming.chunks])

    async def chunks() -> Any:
        yield b"x"

    for path in ("file", "folder/secret", "proc", "pipe", "../../../../../../etc/passwd"):
        with pytest.raises(SandboxFileError):
            asyncio.run(read(path))
    for path in ("folder/new", "../new"):
        with pytest.raises(SandboxFileError):
            asyncio.run(files.write(path, chunks()))
    asyncio.run(files.remove("folder"))
    folder = Path(facts["secret"]).parent
    assert Path(facts["secret"]).exists()
    assert not (folder / "new").exists()


def test_log_is_not_read_through_a_link(sandbox: KernelSandbox, facts: dict[str, Any]) -> None:
    """The error for a kernel that has ended contains no file of the user."""
    with pytest.raises(InterpreterDiedError) as caught:
        sandbox.run(
            """
            for log in glob.glob("/run/sandbox/**/child.log", recursive=True):
                os.unlink(log)
                os.symlink(facts["secret"], log)
            os._exit(1)
            """,
            timeout=60,
        )
    assert facts["token"] not in str(caught.value)


def test_host_connects_to_no_socket_through_a_link(
    sandbox: KernelSandbox, facts: dict[str, Any]
) -> None:
    """A sandbox cannot make the host connect to a socket of the user instead of its kernel's."""
    before = _connected(facts)
    with contextlib.suppress(SandboxError):
        sandbox.run(
            """
            for path in glob.glob("/run/sandbox/s/*"):
                if stat.S_ISSOCK(os.lstat(path).st_mode):
                    os.unlink(path)
                    os.symlink(facts["path_socket"], path)
            def cut():
                time.sleep(0.2)
                for name in os.listdir("/proc/self/fd"):
                    with contextlib.suppress(OSError):
                        if os.readlink("/proc/self/fd/" + name).startswith("socket:"):
                            with socket.socket(fileno=os.dup(int(name))) as line:
                                line.shutdown(socket.SHUT_RDWR)
            threading.Thread(target=cut).start()
            time.sleep(1)
            """,
            timeout=3,
        )
    with contextlib.suppress(SandboxError):
        sandbox.run("1", timeout=1)
    assert _connected(facts) == before


def _connected(facts: dict[str, Any]) -> int:
    with contextlib.suppress(FileNotFoundError):
        return Path(facts["connected"]).stat().st_size
    return 0


@pytest.mark.slow
def test_home_is_removed_whatever_is_in_it(sandbox: KernelSandbox, facts: dict[str, Any]) -> None:
    """Closing a sandbox removes everything that code has created, however deep, unreadable or oddly
    named, and nothing that links lead to."""
    run(
        sandbox,
        r"""
        os.symlink(os.path.dirname(facts["secret"]), "folder")
        os.symlink(facts["secret"], "file")
        os.mkdir("closed")
        open("closed/file", "w").close()
        os.chmod("closed", 0)
        os.mkdir(b"\xff\n")
        open("own.pth", "w").close()
        os.chmod("own.pth", 0o4000)
        before = os.open(".", os.O_RDONLY)
        for _ in range(3000):
            os.mkdir("d" * 100)
            os.chdir("d" * 100)
        os.fchdir(before)
        """,
    )
    sandbox.close()
    assert not sandbox.home.parent.exists()
    assert Path(facts["secret"]).read_text() == facts["token"]


def test_no_process_outlives_its_sandbox(sandbox: KernelSandbox, facts: dict[str, Any]) -> None:
    """Daemons, stopped processes, and a process that keeps forking itself are gone within a second
    after closing."""
    run(
        sandbox,
        """
        import ctypes
        name = "daemon-" + facts["token"]
        daemon = "import os, sys, time; os.fork() and os._exit(0); os.setsid(); time.sleep(600)"
        stubborn = "import signal, time; [signal.signal(each, signal.SIG_IGN) for each in (1, 2, 15)];"
        moving = "import os, time\\nwhile True:\\n    if os.fork(): os._exit(0)\\n    os.setsid()"
        for code in (daemon, stubborn + "time.sleep(600)", moving):
            subprocess.Popen([sys.executable, "-c", code, name], start_new_session=True)
        subprocess.Popen([sys.executable, "-c", "import os; os.kill(os.getpid(), 19)", name])
        time.sleep(1)
        """,
    )
    assert _named(f"daemon-{facts['token']}")
    sandbox.close()
    deadline = time.monotonic() + 1
    while _named(f"daemon-{facts['token']}") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _named(f"daemon-{facts['token']}") == []


def _named(name: str) -> list[str]:
    named = []
    for process in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if name.encode() in Path("/proc", process, "cmdline").read_bytes():
                named.append(process)
    return named
