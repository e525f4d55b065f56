"""`registry.resolve` in a new process and in a running one, for registries of several sizes."""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import median

from bench.child import ROOT, answer, timed
from bench.options import Options
from bench.result import Result, Target, ratio, seconds
from bench.synthetic import write_registry
from bench.turns import spread, take_turns

__all__ = ["measure"]

_ROUNDS = 31
_BUILDS = 20
_SIZES = (10, 1_000, 10_000)
_RESOLVE = (
    "import sys; from builder import registry;"
    " registry.resolve(sys.argv[1], target='e2b', path=sys.argv[2])"
)
# The bare look-up, without any checks.
_PARSE = (
    "import sys, json;"
    " found = json.load(open(sys.argv[2]))['templates'][sys.argv[1]]['e2b'];"
    " found['builds'][found['channels']['stable']]"
)
_HOT = """
import json, sys, time
from builder import registry
times = []
for _ in range(int(sys.argv[3])):
    start = time.perf_counter()
    registry.resolve(sys.argv[1], target="e2b", path=sys.argv[2])
    times.append(time.perf_counter() - start)
print(json.dumps(times))
"""


def measure(options: Options) -> Result:
    """Compare this repository's registry with `json`, then larger ones with a bare Python."""
    rounds = options.rounds or _ROUNDS
    rows: list[tuple[str, ...]] = []
    targets = []
    own, name = ROOT / "registry.json", "tta-ml-minimal"
    folder = options.workshop.folder
    times = _taken({"resolve": _RESOLVE, "json": _PARSE, "bare": "pass"}, name, own, folder, rounds)
    label = f"this repository's, {_size(own)}"
    bare = median(times["bare"])
    rows += [
        (label, "a Python that does nothing", *spread(times["bare"]), "1"),
        (label, "one that loads it with `json`", *_cells(times["json"], bare)),
        (label, "one that resolves", *_cells(times["resolve"], bare)),
    ]
    value = median(times["resolve"]) / median(times["json"])
    targets.append(Target(what="resolve to json, this repository's", value=value, limit=1.5))
    for count in _SIZES:
        path = folder / f"registry-{count}.json"
        name = write_registry(path, count, _BUILDS)
        label = f"{count:,} templates, {_BUILDS} builds each, {_size(path)}"
        times = _taken({"resolve": _RESOLVE, "bare": "pass"}, name, path, folder, rounds)
        value = median(times["resolve"]) / median(times["bare"])
        rows.append((label, "one that resolves", *_cells(times["resolve"], median(times["bare"]))))
        targets.append(Target(what=f"resolve to Python's start, {count:,}", value=value, limit=3))
        hot = answer([sys.executable, "-c", _HOT, name, str(path), str(rounds)])
        rows.append((label, "a further look-up in it", *spread(hot), "-"))
        path.unlink()
    return Result(
        title="resolve: from a name to a build",
        measured="Whole processes, side by side: one that resolves one name, one that does nothing,"
        " and for a small registry one that loads the same file with `json` and takes the same"
        " build out of it. Each further look-up reads the file anew.",
        headings=("registry", "process", "median", "fastest", "slowest", "ratio"),
        rows=tuple(rows),
        targets=tuple(targets),
        notes=(f"A Python that does nothing takes {seconds(bare)} here.",),
    )


def _taken(
    programs: dict[str, str], name: str, path: Path, folder: Path, rounds: int
) -> dict[str, list[float]]:
    def process(code: str) -> float:
        return timed([sys.executable, "-c", code, name, str(path)], folder=folder)

    sides = {label: lambda code=code: process(code) for label, code in programs.items()}
    return take_turns(sides, rounds=rounds)


def _cells(times: list[float], bare: float) -> tuple[str, ...]:
    return (*spread(times), ratio(median(times) / bare))


def _size(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 2**20:.0f} MiB" if size >= 1 << 20 else f"{size / 2**10:.0f} KiB"
