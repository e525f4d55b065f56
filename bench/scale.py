"""Validate, render and plan 100 and 1,000 variants: the time must grow at most in proportion."""

from __future__ import annotations

import functools
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.child import answer
from bench.options import Options
from bench.result import Result, Target, ratio, seconds
from bench.synthetic import write_variants
from bench.turns import take_turns

__all__ = ["measure"]

_ROUNDS = 15
_FEW, _MANY = 100, 1_000
_STEPS = ("validate", "render", "plan")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Turn:
    """The figures of one process: those that it printed, and how long it ran."""

    steps: Mapping[str, float]
    whole: float
    rss: float

    @property
    def work(self) -> float:
        return sum(self.steps[step] for step in _STEPS)


def measure(options: Options) -> Result:
    """Measure two projects that differ only in their number of variants."""
    sides: dict[str, Callable[[], _Turn]] = {}
    for count in (_FEW, _MANY):
        folder = options.workshop.folder / f"scale-{count}" / "variants"
        write_variants(folder, count)
        sides[str(count)] = functools.partial(_turn, folder)
    turns = take_turns(sides, rounds=options.rounds or _ROUNDS)
    few, many = turns[str(_FEW)], turns[str(_MANY)]
    growth = median(turn.work for turn in many) / median(turn.work for turn in few)
    whole = median(turn.whole for turn in many)
    peak = max(turn.rss for turn in many) / 2**20
    rows = [
        (
            f"{count:,}",
            *(seconds(median(turn.steps[step] for turn in sized)) for step in _STEPS),
            seconds(median(turn.work for turn in sized)),
            seconds(median(turn.whole for turn in sized)),
            f"{max(turn.rss for turn in sized) / 2**20:.0f} MiB",
            ratio(growth) if sized is many else "1",
        )
        for count, sized in ((_FEW, few), (_MANY, many))
    ]
    return Result(
        title="scale: from 100 to 1,000 variants",
        measured="Chains of three stages with made-up locks of 20 packages, in a fresh process."
        " The ratio is of the three steps together, without the start of the process, which"
        " would flatter it; the seconds of the target are those of the whole process.",
        headings=("variants", *_STEPS, "together", "whole process", "peak memory", "ratio"),
        rows=tuple(rows),
        targets=(
            Target(what="1,000 to 100 variants", value=growth, limit=11),
            Target(what="whole process, 1,000 variants", value=whole, limit=4, unit=" s"),
            Target(what="peak memory, 1,000 variants", value=peak, limit=300, unit=" MiB"),
        ),
    )


def _turn(folder: Path) -> _Turn:
    cache = folder.parent / "cache"
    shutil.rmtree(cache / "specs", ignore_errors=True)  # specs that are already validated
    command = [sys.executable, "-m", "bench.programs.scale", str(folder)]
    start = time.perf_counter()
    figures = answer(command, extra={"TEMPLATE_BUILDER_CACHE_DIR": str(cache)})
    whole = time.perf_counter() - start
    return _Turn(steps=figures, whole=whole, rss=figures["rss"])
