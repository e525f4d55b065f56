"""Open sandboxes of a template one after another, from a pool and at once; print what that takes.

A time runs from the call until the answer of `print(1)` is there. The first sandbox of the program
imports the template's modules, unless an earlier program has kept them in memory.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
import time
from typing import Any

from bench.programs.processes import descendants, memory_of
from builder.runtime import CodeExecutionPrimitive

_FURTHER = 40
_POOL = 4
_POOLED = 15
_AT_ONCE = 100
_PREPARING_SECONDS = 1.0


async def _print(executor: CodeExecutionPrimitive) -> None:
    execution = await executor.execute({"code": "print(1)", "timeout": 120})
    if not execution["success"]:
        sys.exit(f"`print(1)` fails in the sandbox: {execution['error']}")


async def _opened(executor: CodeExecutionPrimitive) -> tuple[float, float]:
    """Return the seconds of one sandbox until its first answer, and of its end."""
    start = time.perf_counter()
    async with executor.session() as further:
        await _print(further)
        answered = time.perf_counter()
    return answered - start, time.perf_counter() - answered


async def _pooled(options: dict[str, Any]) -> list[float]:
    times = []
    async with CodeExecutionPrimitive(**options, pool_size=_POOL) as executor:
        pool = executor._current.policy.pool()  # noqa: SLF001 - only benchmarks wait for it to fill
        for _ in range(_POOLED):
            while pool.ready() < pool.size:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            times.append((await _opened(executor))[0])
    return times


def _own_memory(pids: set[int]) -> float:
    """Return the MiB that processes have for themselves."""
    return sum(memory_of(pid)["Private"] for pid in pids)


async def _at_once(executor: CodeExecutionPrimitive) -> dict[str, float]:
    """Return the seconds until all sandboxes have answered, and the MiB that each has alone."""
    before = set(descendants(os.getpid()))
    start = time.perf_counter()
    answered, measured = asyncio.Semaphore(0), asyncio.Event()

    async def opened_until_measured() -> None:
        async with executor.session() as further:
            await _print(further)
            answered.release()
            await measured.wait()

    tasks = [asyncio.create_task(opened_until_measured()) for _ in range(_AT_ONCE)]
    for _ in tasks:
        await answered.acquire()
    seconds = time.perf_counter() - start
    opened = set(descendants(os.getpid())) - before
    own = _own_memory(opened) / _AT_ONCE
    measured.set()
    await asyncio.gather(*tasks)
    return {"seconds": seconds, "own": own}


async def _all(name: str, isolation: str, tasks: list[str]) -> dict[str, Any]:
    options: dict[str, Any] = {"template_id": name, "target": "local", "isolation": isolation}
    measured: dict[str, Any] = {}
    start = time.perf_counter()
    async with CodeExecutionPrimitive(**options) as executor:
        await _print(executor)
        measured["first"] = time.perf_counter() - start
        if "further" in tasks:
            before = set(descendants(os.getpid()))
            further = [await _opened(executor) for _ in range(_FURTHER)]
            measured["answer"], measured["end"] = zip(*further, strict=True)
            await asyncio.sleep(_PREPARING_SECONDS)
            measured["prepared"] = _own_memory(set(descendants(os.getpid())) - before)
        if "at-once" in tasks:
            measured["at_once"] = await _at_once(executor)
    if "pool" in tasks:
        measured["pool"] = await _pooled(options)
    return measured


def main() -> None:
    """Take `NAME ISOLATION [TASK…]`, with tasks `further`, `at-once`, `pool`; print the result."""
    importlib.import_module("builder.targets.local.session")
    name, isolation, *tasks = sys.argv[1:]
    print(json.dumps(asyncio.run(_all(name, isolation, tasks))))


if __name__ == "__main__":
    main()
