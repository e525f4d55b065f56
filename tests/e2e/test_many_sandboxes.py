"""What is left of many sandboxes, which are opened one after another."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from builder.runtime import CodeExecutionPrimitive
from builder.targets.local.kernel_host.waiting import SANDBOX
from tests.support.sandboxes import wait_for_prepared

pytestmark = [
    pytest.mark.network,
    pytest.mark.soak,
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]
_SANDBOXES = 1000


@pytest.mark.usefixtures("local_one")
@pytest.mark.parametrize("isolation", ["confined", "none"])
def test_a_thousand_sandboxes_leave_nothing(isolation: Any) -> None:
    """A thousand further sandboxes leave no process, mount, folder, descriptor or thread behind."""

    async def printed(executor: CodeExecutionPrimitive) -> None:
        assert (await executor.execute({"code": "print(6 * 7)"}))["output"] == "42\n"

    async def run() -> tuple[dict[str, Any], dict[str, Any]]:
        async with CodeExecutionPrimitive(
            template_id="one", target="local", isolation=isolation
        ) as executor:
            await printed(executor)
            for _ in range(2):
                async with executor.session() as further:
                    await printed(further)
            await asyncio.to_thread(wait_for_prepared)
            while not (before := things()):
                await asyncio.sleep(0.1)
            for _ in range(_SANDBOXES):
                async with executor.session() as further:
                    await printed(further)
            await asyncio.to_thread(wait_for_prepared)
            deadline = time.monotonic() + 60  # for what ends after its sandbox
            while (after := things()) != before and time.monotonic() < deadline:
                await asyncio.sleep(0.1)
            return before, after

    before, after = asyncio.run(run())
    assert after == before


def has_own_mounts(pid: int) -> bool:
    """Return whether a process has other mounts than this one: other programs change those."""
    return os.stat(f"/proc/{pid}/ns/mnt").st_ino != os.stat("/proc/self/ns/mnt").st_ino


def things() -> dict[str, Any]:
    """Return what this process and those below it have, or nothing if one of them ends."""
    try:
        return things_of([psutil.Process(), *psutil.Process().children(recursive=True)])
    except (OSError, psutil.Error):
        return {}


def things_of(processes: list[psutil.Process]) -> dict[str, Any]:
    ids = [process.pid for process in processes]
    guards = [process.cmdline() for process in processes if "-I" in process.cmdline()]
    return {
        # Another sandbox is prepared at the end than at the beginning.
        "processes": len(ids),
        "mounts": sorted(
            Path(f"/proc/{pid}/mounts").read_text() for pid in ids if has_own_mounts(pid)
        ),
        "folders": [
            sorted(SANDBOX if name.startswith(SANDBOX) else name for name in os.listdir(command[4]))
            for command in guards
        ],
        "descriptors": sorted(len(os.listdir(f"/proc/{pid}/fd")) for pid in ids),
        "threads": threading.active_count(),
    }
