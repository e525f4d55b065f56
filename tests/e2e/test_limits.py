"""What is said where descriptors, threads or memory run out, and what is left behind then."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from builder.targets.e2b.account import Account
from builder.targets.e2b.session import _translated
from tests.conftest import ROOT

pytestmark = [
    pytest.mark.network,
    pytest.mark.skipif(sys.platform != "linux", reason="macOS counts otherwise"),
]

# Opens sandboxes until there is no room for another; prints what is said then, and what is left.
OPENING = """
import asyncio, json, os, resource, sys, tempfile
from builder.errors import SandboxError
from builder.runtime import CodeExecutionPrimitive

async def main():
    opened, said = [], ""
    for _ in range(int(sys.argv[1])):
        executor = CodeExecutionPrimitive(
            template_id="one", target="local", pool_size=int(sys.argv[2]),
        )
        try:
            await executor.execute({"code": "1"})
        except SandboxError as error:
            said = str(error)
            break
        opened.append(executor)
    working = [(await each.execute({"code": "print(1)"}))["success"] for each in opened]
    for each in opened:
        await each.cleanup()
    return len(opened), said, all(working)

print(json.dumps(asyncio.run(main())))
"""


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder for temporary files, with a name that is short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="limits-"))
    yield folder
    shutil.rmtree(folder)


def opened(
    registry: Path, scratch: Path, limit: str, *, count: int = 12, pool: int = 0
) -> tuple[int, str, bool, str]:
    """How many sandboxes a program opens under a limit, what it says then, whether those that it
    has work, and what it writes to standard error; nothing of it is left."""
    words = ("bash", "-c", f'ulimit {limit} && exec "$@"', "bash")
    done = subprocess.run(
        [*words, sys.executable, "-c", OPENING, str(count), str(pool)],
        capture_output=True,
        text=True,
        check=False,
        cwd=registry.parent,
        env=os.environ
        | {
            "TEMPLATE_REGISTRY": str(registry),
            "TMPDIR": str(scratch),
            "PYTHONPATH": str(ROOT),
        },
    )
    assert done.returncode == 0, done.stderr
    number, message, working = json.loads(done.stdout)
    assert list(scratch.iterdir()) == []
    return number, message, working, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("pool", [0, 1])
@pytest.mark.parametrize("limit", [100, 40])
def test_too_few_descriptors(local_one: Path, scratch: Path, limit: int, pool: int) -> None:
    """A program that has no descriptors for another sandbox is told so, and by how many they are
    limited; those that it has work on, and nothing is left."""
    number, message, working, err = opened(local_one, scratch, f"-n {limit}", pool=pool)
    assert number < 12
    assert working
    assert message == (
        "there is no room for another sandbox: the limit of open files is reached (`ulimit -n`:"
        f" {limit})\n\nhint: raise it (`ulimit -n`, or what your container or service manager sets),"
        " or have fewer sandboxes open at once"
    )
    assert "Error" not in err, err


def test_too_little_memory(local_one: Path, scratch: Path) -> None:
    """A program that may not have the memory of another sandbox is told so."""
    number, message, working, err = opened(local_one, scratch, "-v 200000", count=2)
    assert (number, working) == (0, True)
    assert message.startswith(
        "there is no room for another sandbox: the limit of memory is reached (`ulimit -v`: 200000 KiB)"
    )
    assert "Error" not in err, err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_too_few_processes() -> None:
    """A program whose user may have no further processes is told so; root may have any number."""
    other = ("setpriv", "--reuid=54321", "--regid=54321", "--clear-groups")
    done = subprocess.run(
        [*other, "bash", "-c", 'ulimit -u 20 && exec "$@"', "bash", "/usr/bin/python3", "-c", ROOM],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env={"PATH": "/usr/bin:/bin"},
        input=(ROOT / "builder" / "system" / "limits.py").read_text(),
    )
    assert done.stdout == (
        "there is no room for another sandbox: the limit of processes and threads is reached"
        " (`ulimit -u`: 20)\n"
    ), done.stderr


# The project may be in a folder that the other user cannot read.
ROOM = """
import sys, types
errors = types.ModuleType("builder.errors")
class SandboxError(Exception):
    def __init__(self, message, hint):
        super().__init__(message)
        self.hint = hint
errors.SandboxError = SandboxError
sys.modules["builder"], sys.modules["builder.errors"] = types.ModuleType("builder"), errors
names = {"__name__": "limits"}
exec(sys.stdin.read(), names)
try:
    with names["room"]():
        pass
except SandboxError as error:
    print(error)
"""


def test_limit_is_named_whatever_library_meets_it() -> None:
    """On E2B an error that came of descriptors which ran out names their limit, too."""
    account = Account(api_key="key")
    met = httpx.ConnectError("All connection attempts failed")
    met.__cause__ = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    assert _translated(met, "one:build", account).message.startswith(
        "there is no room for another sandbox: the limit of open files is reached (`ulimit -n`: "
    )
    refused = _translated(httpx.ConnectError("refused"), "one:build", account)
    assert "limit" not in refused.message
