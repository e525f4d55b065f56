"""`registry.resolve` in a fresh process, beside a fresh process that parses the same file."""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import median

from bench.child import ROOT, timed
from bench.options import Options
from bench.result import Result, Target, ratio
from bench.synthetic import write_registry
from bench.turns import spread, take_turns

__all__ = ["measure"]

_ROUNDS = 31
_TEMPLATES = 10_000
_RESOLVE = (
    "import sys; from builder import registry;"
    " registry.resolve(sys.argv[1], target='e2b', path=sys.argv[2])"
)
# What the look-up comes down to, without any of its checks.
_PARSE = (
    "import sys, json;"
    " found = json.load(open(sys.argv[2]))['templates'][sys.argv[1]]['e2b'];"
    " found['builds'][found['channels']['stable']]"
)


def measure(options: Options) -> Result:
    """Both sides with this repository's registry, then with a large one."""
    rounds = options.rounds or _ROUNDS
    large = options.workshop.folder / "registry.json"
    last = write_registry(large, _TEMPLATES)
    files = (
        ("this repository's registry", ROOT / "registry.json", "tta-ml-minimal"),
        (f"{_TEMPLATES:,} templates", large, last),
    )
    rows: list[tuple[str, ...]] = []
    targets = []
    for label, path, name in files:
        ours, theirs = _both(path, name, options.workshop.folder, rounds)
        value = median(ours) / median(theirs)
        shown = f"{label}, {_size(path)}"
        rows += [
            (shown, "`registry.resolve`", *spread(ours), ratio(value)),
            (shown, "`json.load`", *spread(theirs), "1"),
        ]
        targets.append(Target(what=f"resolve to json, {label}", value=value, limit=1.5))
    return Result(
        title="resolve: from a name to a build",
        measured="A whole process that resolves one name, beside a whole process that loads the"
        " same file with `json` and takes the same build out of it.",
        headings=("registry", "process", "median", "fastest", "slowest", "ratio"),
        rows=tuple(rows),
        targets=tuple(targets),
    )


def _both(path: Path, name: str, folder: Path, rounds: int) -> tuple[list[float], list[float]]:
    def process(code: str) -> float:
        return timed([sys.executable, "-c", code, name, str(path)], folder=folder)

    found = take_turns(
        {"resolve": lambda: process(_RESOLVE), "json": lambda: process(_PARSE)}, rounds=rounds
    )
    return found["resolve"], found["json"]


def _size(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 2**20:.0f} MiB" if size >= 1 << 20 else f"{size / 2**10:.0f} KiB"
