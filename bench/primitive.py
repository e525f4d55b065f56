"""`CodeExecutionPrimitive` in large registries: its constructor, and the check for revocations."""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import median
from typing import Any

from bench.child import answer
from bench.options import Options
from bench.result import Result, Target
from bench.synthetic import write_registry
from bench.turns import spread, take_turns

__all__ = ["measure"]

_ROUNDS = 15
_TIMES = 100
_BUILDS = 20
_SIZES = (10, 1_000, 10_000)
_KEY = {"E2B_API_KEY": f"e2b_{'0' * 40}"}  # nothing is opened with it


def measure(options: Options) -> Result:
    """Compare the primitive with a bare look-up, in registries of several sizes."""
    rows: list[tuple[str, ...]] = []
    targets: list[Target] = []
    for count in _SIZES:
        path = options.workshop.folder / f"registry-{count}.json"
        name = write_registry(path, count, _BUILDS)
        program = [sys.executable, "-m", "bench.programs.primitive"]
        first, again = _measured(program, name, path, options.rounds or _ROUNDS)
        path.unlink()
        label = f"{count:,} templates, {_BUILDS} builds each"
        sides = {
            "first look-up of a process": first["lookup"],
            "first primitive of a process": first["construct"],
            "a further look-up": again["lookup"],
            "a further primitive": again["construct"],
            **{row: times for row, times in again.items() if row.startswith("check")},
        }
        rows += [(label, row, *spread(times)) for row, times in sides.items()]
        limits = {
            "first primitive above a look-up": (
                median(first["construct"]) - median(first["lookup"]), 10,
            ),
            **{
                row: (median(times), 1)
                for row, times in sides.items()
                if row.startswith("check")
            },
        }  # fmt: skip
        targets += [
            Target(what=f"{count:,}, {row}", value=1000 * value, limit=limit, unit=" ms")
            for row, (value, limit) in limits.items()
        ]
    return Result(
        title="primitive: from a name to what a sandbox is created from, and the check before it",
        measured="In a process that has loaded its modules: `registry.resolve`, the constructor of"
        " `CodeExecutionPrimitive`, and the check for a revocation before each sandbox is handed"
        " out; that check again after writes to the registry. Processor time: nothing of it waits.",
        headings=("registry", "what", "median", "fastest", "slowest"),
        rows=tuple(rows),
        targets=tuple(targets),
    )


def _measured(
    program: list[str], name: str, path: Path, rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    extra = {"TEMPLATE_REGISTRY": str(path), **_KEY}

    def once(task: str) -> float:
        seconds: list[float] = answer([*program, task, name, "1"], extra=extra)
        return seconds[0]

    sides = {"lookup": lambda: once("lookup"), "construct": lambda: once("construct")}
    first = take_turns(sides, rounds=rounds)
    again: Any = answer([*program, "again", name, str(_TIMES)], extra=extra)
    return first, again
