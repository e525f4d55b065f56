"""What output of any size takes of an application's memory, when code runs on E2B."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.support.e2b_server import Server

MIB = 1 << 20
SIZE = 40 * MIB
APPLICATION = """
import asyncio, json, sys
from builder.runtime import CodeExecutionPrimitive

def peak():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) << 10

async def main():
    async with CodeExecutionPrimitive(template_id="one", max_output=1000) as executor:
        await executor.execute({"code": "print('x' * 5000); 1"})
        before = peak()
        timeout = float(sys.argv[1])
        executions = [await executor.execute({"code": code, "timeout": timeout}) for code in sys.argv[2:]]
        after = peak()
        last = await executor.execute({"code": "print(1)"})
    results = [[dict(result.data) for result in each.pop("results")] for each in executions]
    json.dump([after - before, [dict(each) for each in executions], results, last["output"]], sys.stdout)

asyncio.run(main())
"""


def application(*codes: str, timeout: float = 300) -> tuple[int, list[dict[str, Any]], Any]:
    """By how much the peak of an application's memory grew, and what the executions gave."""
    done = subprocess.run(
        [sys.executable, "-c", APPLICATION, str(timeout), *codes],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    grown, outputs, results, last = json.loads(done.stdout)
    assert last == "1\n"
    return grown, outputs, results


@pytest.mark.slow
def test_printed(ready: Server) -> None:
    """However much is printed, the application keeps the beginning and the end of it, counts the
    rest, and takes 32 MiB more at most."""
    grown, outputs, _ = application(
        f"print('é' * {SIZE // 2})",
        f"for number in range({SIZE // 128}): print('x' * 127)",
        f"import sys\nprint('x' * {SIZE}, file=sys.stderr)",
    )
    for result in outputs:
        kept = result["output"] or "\n".join(result["logs"])
        assert result["error"] is None
        assert "characters left out" in kept
        assert len(kept) < 1200
        assert result["left_out"] >= SIZE // 2 - 1000
    assert grown < 32 * MIB


@pytest.mark.slow
def test_result(ready: Server) -> None:
    """Of a result of any size the application keeps the beginning and the end of its text, of
    everything else what it was."""
    code = f"from IPython.display import HTML, display\ndisplay(HTML('h' * {SIZE}))\n'r' * {SIZE}"
    grown, (result,), ((shown, value),) = application(code)
    assert shown == {"text/plain": "<IPython.core.display.HTML object>"}
    assert value["text/plain"].startswith("'rrr")
    assert value["text/plain"].endswith("rrr'")
    assert result["left_out"] > 2 * SIZE - 2000
    assert grown < 32 * MIB


@pytest.mark.slow
def test_error(ready: Server) -> None:
    """Of an error with a message of any size the application keeps the beginning and the end."""
    grown, (result,), _ = application(f"raise ValueError('m' * {SIZE})")
    assert result["error"].startswith("ValueError: mmm")
    assert result["error"].endswith("mmm")
    assert len(result["error"]) < 1200
    assert grown < 32 * MIB


@pytest.mark.slow
def test_output_without_an_end(ready: Server) -> None:
    """Code that prints until its time-out takes no more memory, and its session is kept."""
    grown, (result,), _ = application("while True: print('x' * 1000)", timeout=2)
    assert result["timed_out"]
    assert not result["session_lost"]
    assert grown < 32 * MIB
