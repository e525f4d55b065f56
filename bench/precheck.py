"""What a pre-check finds of the warm-up levels, and what it costs when nothing changed."""

from __future__ import annotations

import sys
from statistics import median

from bench.child import answer, timed
from bench.engine import connect, project
from bench.options import Options
from bench.result import Result, Target, ratio, seconds
from bench.turns import spread, take_turns
from builder import pipeline
from builder.project import Project

__all__ = ["measure"]

_ROUNDS = 11
_LEVELS = ("none", "disk", "memory")


def measure(options: Options) -> Result:
    """Pre-check each variant asked for once, then ask again and again."""
    connect()
    place = project(options.workshop)
    variables = options.workshop.variables(options.workshop.cache)
    variants = {one.stem: one.name for one in pipeline.select(Project.find(place), [])}
    rows: list[tuple[str, ...]] = []
    targets: list[Target] = []
    names = [variants[stem] for stem in options.variants]
    program = [sys.executable, "-m", "builder"]
    rest = ["--frozen", "--project", str(place), *names]
    for one in answer([*program, "precheck", "--json", *rest], extra=variables):
        first = {level: sum(one["first_use"][level].values()) for level in _LEVELS}
        rows += [
            (
                f"`{one['name']}`, {level}: ready, then first imports",
                seconds(one["ready_seconds"][level]),
                seconds(first[level]),
                "-",
                ratio(first[level] / first["none"]),
            )
            for level in _LEVELS
        ]
        targets += [
            Target(
                what=f"{one['name']}, disk to none",
                value=first["disk"] / first["none"],
                limit=1 / 3,
            ),
            Target(
                what=f"{one['name']}, memory", value=first["memory"] * 1e3, limit=50, unit=" ms"
            ),
        ]
    found = take_turns(
        {
            "precheck": lambda: timed([*program, "precheck", *rest], extra=variables),
            "plan": lambda: timed([*program, "plan", *rest], extra=variables),
        },
        rounds=options.rounds or _ROUNDS,
    )
    value = median(found["precheck"]) / median(found["plan"])
    rows += [
        (
            "`template-builder precheck --frozen`, unchanged",
            *spread(found["precheck"]),
            ratio(value),
        ),
        ("`template-builder plan --frozen`", *spread(found["plan"]), "1"),
    ]
    return Result(
        title="precheck: a fresh container, and a pre-check that finds nothing new",
        measured="First rows: seconds until a started container is ready, and of the first imports"
        " in it, through its code service. Last rows: median, fastest and slowest of whole"
        " processes.",
        headings=("what", "first", "second", "third", "ratio"),
        rows=tuple(rows),
        targets=(*targets, Target(what="unchanged precheck to plan", value=value, limit=2)),
    )
