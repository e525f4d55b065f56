"""Open sandboxes of a template as an application does, and run its imports; say how long it took.

Every opening is timed from the call to the answer of the imports. What an application imports is
loaded before the clock runs: it pays that once.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from builder.runtime import CodeExecutionPrimitive

_POOL = 4
_TIMES = 15
_SEQUENTIAL = 200
_CONCURRENT = 20


async def _opened(name: str, code: str, **options: Any) -> dict[str, float]:
    """Seconds until a sandbox is up, and from there until the imports have answered."""
    start = time.perf_counter()
    async with CodeExecutionPrimitive(template_id=name, target="local", **options) as executor:
        up = time.perf_counter()
        found = await executor.execute({"code": code, "timeout": 600})
        end = time.perf_counter()
    if not found["success"]:
        sys.exit(f"the imports fail in the sandbox: {found['error']}")
    return {"up": up - start, "first": end - up}


async def _filled(executor: CodeExecutionPrimitive) -> None:
    pool = executor._current.policy.pool()  # noqa: SLF001 - how full it is matters to nobody else
    while pool.ready() < pool.size:  # noqa: ASYNC110 - nobody but this asks for it
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.2)  # what filling it has started must not run into what is measured


async def _pooled(name: str, code: str) -> dict[str, Any]:
    found: dict[str, Any] = {"pool": [], "open": []}
    options: dict[str, Any] = {"template_id": name, "target": "local", "pool_size": _POOL}
    async with CodeExecutionPrimitive(**options) as executor:
        await _filled(executor)
        found["memory"] = _memory()
        for _ in range(_TIMES):
            found["pool"].append(await _opened(name, code, pool_size=_POOL))
            await _filled(executor)
            start = time.perf_counter()
            await executor.execute({"code": code})
            found["open"].append(time.perf_counter() - start)
    return found


def _memory() -> dict[str, float]:
    """MiB: of the process that kernels are forked from, and of each sandbox with its keeper; its
    own pages, and its part of those that it shares."""
    kernels: list[dict[str, float]] = []
    zygote = {}
    for pid in _descendants(os.getpid()):
        if not _forked_or_forks(pid):
            continue
        depth = _depth(pid)
        told = _smaps(pid)
        if depth == 0:
            zygote = told
        elif depth == 1:
            kernels.append(told)
        else:
            kernels[-1] = {key: kernels[-1][key] + told[key] for key in told}
    count = len(kernels)
    return {
        "zygote_pss": zygote.get("Pss", 0.0),
        "sandboxes": count,
        "own": sum(one["Private"] for one in kernels) / count,
        "pss": sum(one["Pss"] for one in kernels) / count,
        "rss": sum(one["Rss"] for one in kernels) / count,
    }


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[1])


def _forked_or_forks(pid: int) -> bool:
    """Whether it is a zygote or came of one; a guard has its command, too, but runs isolated."""
    command = Path(f"/proc/{pid}/cmdline").read_bytes()
    return b"kernel_host" in command and b"\0-I\0" not in command


def _depth(pid: int) -> int:
    """How many forks away from the zygote: 1 is a sandbox's keeper, 2 its kernel."""
    depth = 0
    while _forked_or_forks(pid := _parent(pid)):
        depth += 1
    return depth


def _descendants(pid: int) -> list[int]:
    """Every process below `pid`, parents first."""
    found = []
    with contextlib.suppress(FileNotFoundError):  # a thread, or all of it, has ended meanwhile
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError):
                for child in (task / "children").read_text(encoding="ascii").split():
                    found += [int(child), *_descendants(int(child))]
    return found


def _smaps(pid: int) -> dict[str, float]:
    found = {"Pss": 0.0, "Rss": 0.0, "Private": 0.0}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]:
        key, value = line.split(":")
        size = int(value.split()[0]) / 1024
        if key in ("Pss", "Rss"):
            found[key] += size
        elif key.startswith("Private_") and key != "Private_Hugetlb":
            found["Private"] += size
    return found


async def _leaks(name: str) -> dict[str, Any]:
    """What is there before and after many sandboxes: processes, descriptors, MiB."""

    def now() -> dict[str, float]:
        return {
            "processes": len(_descendants(os.getpid())),
            "descriptors": len(os.listdir("/proc/self/fd")),
            "rss": _smaps(os.getpid())["Rss"],
        }

    async def one() -> None:
        await _opened(name, "1")

    for _ in range(20):  # caches fill with the first ones
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
    """`NAME CODE TASK`: print what the task `first`, `pool` or `leaks` found."""
    for module in ("builder.targets.local.session", "builder.runtime.primitive"):
        importlib.import_module(module)
    print(json.dumps(asyncio.run(_all(*sys.argv[1:4]))))


if __name__ == "__main__":
    main()
