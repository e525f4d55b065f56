"""Open sandboxes of a template as an application does, and run its imports; print the times.

Each time runs from the call until the imports are done. The application's own modules are loaded
before the clock starts, since it loads them only once.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from bench.programs.processes import descendants, memory_of
from builder.runtime import CodeExecutionPrimitive

_POOL = 4
_TIMES = 15
_SEQUENTIAL = 200
_CONCURRENT = 20


async def _opened(name: str, code: str, **options: Any) -> dict[str, float]:
    """Return the seconds until a sandbox is up, and from then until the imports are done."""
    start = time.perf_counter()
    async with CodeExecutionPrimitive(template_id=name, target="local", **options) as executor:
        up = time.perf_counter()
        execution = await executor.execute({"code": code, "timeout": 600})
        end = time.perf_counter()
    if not execution["success"]:
        sys.exit(f"the imports fail in the sandbox: {execution['error']}")
    return {"up": up - start, "first": end - up}


async def _filled(executor: CodeExecutionPrimitive) -> None:
    pool = executor._current.policy.pool()  # noqa: SLF001 - only this benchmark waits for it to fill
    while pool.ready() < pool.size:  # noqa: ASYNC110 - only this polls it
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.2)  # let the work that filled it end first


async def _pooled(name: str, code: str) -> dict[str, Any]:
    times: dict[str, Any] = {"pool": [], "open": []}
    options: dict[str, Any] = {"template_id": name, "target": "local", "pool_size": _POOL}
    async with CodeExecutionPrimitive(**options) as executor:
        await _filled(executor)
        times["memory"] = _memory()
        for _ in range(_TIMES):
            times["pool"].append(await _opened(name, code, pool_size=_POOL))
            await _filled(executor)
            start = time.perf_counter()
            await executor.execute({"code": code})
            times["open"].append(time.perf_counter() - start)
    return times


def _memory() -> dict[str, float]:
    """Return the MiB of the zygote, and of each sandbox with its keeper: its own pages, and those
    with its share of the shared ones."""
    kernels: list[dict[str, float]] = []
    zygote = {}
    for pid in descendants(os.getpid()):
        if not _forked_or_forks(pid):
            continue
        depth = _depth(pid)
        sizes = memory_of(pid)
        if depth == 0:
            zygote = sizes
        elif depth == 1:
            kernels.append(sizes)
        else:
            kernels[-1] = {key: kernels[-1][key] + sizes[key] for key in sizes}
    count = len(kernels)
    return {
        "zygote_pss": zygote.get("Pss", 0.0),
        "sandboxes": count,
        "own": sum(kernel["Private"] for kernel in kernels) / count,
        "pss": sum(kernel["Pss"] for kernel in kernels) / count,
        "rss": sum(kernel["Rss"] for kernel in kernels) / count,
    }


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[1])


def _forked_or_forks(pid: int) -> bool:
    """Return whether it is a zygote or forked from one; a guard with that command runs isolated."""
    command = Path(f"/proc/{pid}/cmdline").read_bytes()
    return b"kernel_host" in command and b"\0-I\0" not in command


def _depth(pid: int) -> int:
    """Return the number of forks from the zygote: 1 for a sandbox's keeper, 2 for its kernel."""
    depth = 0
    while _forked_or_forks(pid := _parent(pid)):
        depth += 1
    return depth


async def _leaks(name: str) -> dict[str, Any]:
    """Return the processes, descriptors and MiB in use before and after many sandboxes."""

    def now() -> dict[str, float]:
        return {
            "processes": len(descendants(os.getpid())),
            "descriptors": len(os.listdir("/proc/self/fd")),
            "rss": memory_of(os.getpid())["Rss"],
        }

    async def one() -> None:
        await _opened(name, "1")

    for _ in range(20):  # the first ones fill caches
        await one()
    before = now()
    for _ in range(_SEQUENTIAL):
        await one()
    sequential = now()
    await asyncio.gather(*(one() for _ in range(_CONCURRENT)))
    await asyncio.gather(*(one() for _ in range(_CONCURRENT)))
    return {"before": before, "sequential": sequential, "concurrent": now()}


async def _all(name: str, code: str, task: str) -> Any:
    if task == "first":
        first = await _opened(name, code)
        return {"first": first, "next": [await _opened(name, code) for _ in range(_TIMES)]}
    return await (_pooled(name, code) if task == "pool" else _leaks(name))


def main() -> None:
    """Take `NAME CODE TASK`, and print the result of the task `first`, `pool` or `leaks`."""
    for module in ("builder.targets.local.session", "builder.runtime.primitive"):
        importlib.import_module(module)
    print(json.dumps(asyncio.run(_all(*sys.argv[1:4]))))


if __name__ == "__main__":
    main()
