"""What a pre-check measures at each warm-up level, and what it costs when nothing changed."""

from __future__ import annotations

import sys
from statistics import median

from bench.child import answer, timed
from bench.engine import connect, project
from bench.options import Options
from bench.result import Result, Target, ratio, seconds
from bench.turns import spread, take_turns
from builder import workflow
from builder.project import Project

__all__ = ["measure"]

_ROUNDS = 11
_LEVEL_ROUNDS = 3
_LEVELS = ("none", "disk", "memory")


def measure(options: Options) -> Result:
    """Pre-check each requested variant several times from scratch, then repeatedly unchanged."""
    connect()
    place = project(options.workshop)
    variables = options.workshop.variables(options.workshop.cache)
    variants = {
        variant.stem: variant.name for variant in workflow.variants_called(Project.find(place), [])
    }
    rows: list[tuple[str, ...]] = []
    targets: list[Target] = []
    names = [variants[stem] for stem in options.variants]
    program = [sys.executable, "-m", "builder"]
    rest = ["--frozen", "--project", str(place), *names]
    command = [*program, "precheck", "--force", "--json", *rest]
    rounds = min(options.rounds or _LEVEL_ROUNDS, _LEVEL_ROUNDS)
    checked = [answer(command, extra=variables) for _ in range(rounds + 1)][1:]
    for name, *checks in zip(names, *checked, strict=True):
        ready = {
            level: median(check["ready_seconds"][level] for check in checks) for level in _LEVELS
        }
        first = {
            level: median(sum(check["first_use"][level].values()) for check in checks)
            for level in _LEVELS
        }
        rows += [
            (
                f"`{name}`, {level}: ready, then first imports",
                seconds(ready[level]),
                seconds(first[level]),
                "-",
                ratio(first[level] / first["none"]),
            )
            for level in _LEVELS
        ]
        warm = first["memory"] * 1e3
        targets.append(Target(what=f"{name}, memory", value=warm, limit=50, unit=" ms"))
    measured = take_turns(
        {
            "precheck": lambda: timed([*program, "precheck", *rest], extra=variables),
            "plan": lambda: timed([*program, "plan", *rest], extra=variables),
        },
        rounds=options.rounds or _ROUNDS,
    )
    value = median(measured["precheck"]) / median(measured["plan"])
    rows += [
        (
            "`template-builder precheck --frozen`, unchanged",
            *spread(measured["precheck"]),
            ratio(value),
        ),
        ("`template-builder plan --frozen`", *spread(measured["plan"]), "1"),
    ]
    return Result(
        title="precheck: a fresh container, and a pre-check that finds nothing new",
        measured="First rows: medians of the seconds until a started container is ready, and of the"
        " first imports in it, through its code service. Last rows: median, fastest and slowest of"
        " whole processes.",
        headings=("what", "first", "second", "third", "ratio"),
        rows=tuple(rows),
        targets=(*targets, Target(what="unchanged precheck to plan", value=value, limit=2)),
    )
