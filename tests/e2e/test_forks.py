"""Applications that fork while they have sandboxes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.support.clouds import Built, Place
from tests.support.sandboxes import gone

pytestmark = [
    pytest.mark.network,
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]

OPEN = """
import os, sys, time
from builder.registry import Ref
from builder.targets.local import place
from builder.targets.local.kernel import KernelSandbox
from builder.targets.local.launch import zygote_of

def opened():
    with place.opened(sys.argv[1], name="one") as path:
        digest = Ref(sys.argv[1]).digest
        zygote = zygote_of(path, digest=digest, warm=(), env={}) if FORKED else None
        return KernelSandbox(path, warm=(), env={}, zygote=zygote)

sandbox = opened()
kernel = sandbox.run("import os; print(os.getpid())", timeout=60).stdout.strip()
child = os.fork()
"""
KILLED = """
if child == 0:
    time.sleep(600)
    os._exit(0)
print(kernel, child, flush=True)
time.sleep(600)
"""
ENDING = """
if child == 0:
    sandbox.abort()
    sandbox.close()
    sys.exit(0)
os.waitpid(child, 0)
print(sandbox.run("print(os.path.isdir(os.getcwd()), 6 * 7)", timeout=60).stdout, flush=True)
sandbox.close()
"""
OPENING = """
if child == 0:
    own = opened()
    print(own.run("print(6 * 7)", timeout=60).stdout, flush=True)
    own.close()
    sys.exit(0)
os.waitpid(child, 0)
print(sandbox.run("print(6 * 8)", timeout=60).stdout, flush=True)
sandbox.close()
"""


@pytest.fixture
def ref(built_on: Callable[..., Built], local_cache: Path) -> str:
    place = Place(built_on("local", "one").folder)
    return f"local:one@{place.recorded('one', 'local')['build_id']}"


def application(ref: str, program: str, *, forked: bool) -> subprocess.Popen[str]:
    code = OPEN.replace("FORKED", str(forked)) + program
    return subprocess.Popen(
        [sys.executable, "-c", code, ref], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )


@pytest.mark.slow
@pytest.mark.parametrize("forked", [True, False])
def test_kernels_end_with_the_application_though_a_child_of_it_lives(
    ref: str, *, forked: bool
) -> None:
    """When an application is killed, its kernels end, also while a process lives that it forked."""
    process = application(ref, KILLED, forked=forked)
    assert process.stdout
    kernel, child = map(int, process.stdout.readline().split())
    try:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert gone(kernel)
        assert Path(f"/proc/{child}").exists()
    finally:
        os.kill(child, signal.SIGKILL)
        process.stdout.close()


@pytest.mark.slow
@pytest.mark.parametrize("forked", [True, False])
def test_forked_process_ends_no_kernel(ref: str, *, forked: bool) -> None:
    """A forked process that closes what it has inherited, and ends, leaves the sandbox to the one
    that opened it."""
    said, _ = application(ref, ENDING, forked=forked).communicate(timeout=240)
    assert said.split() == ["True", "42"]


@pytest.mark.slow
@pytest.mark.parametrize("forked", [True, False])
def test_forked_process_opens_sandboxes_of_its_own(ref: str, *, forked: bool) -> None:
    """A process that was forked from one with sandboxes opens its own, and the other's go on."""
    said, _ = application(ref, OPENING, forked=forked).communicate(timeout=240)
    assert said.split() == ["42", "48"]
