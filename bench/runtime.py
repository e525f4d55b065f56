"""Run code as an application does: with a template, from the pool, and without a template."""

from __future__ import annotations

import sys
from statistics import median
from typing import Any

from bench.child import ChildError, answer
from bench.job import PIP, UV, Wait, sandboxes, variant_of, without_template
from bench.options import Options
from bench.result import Result, Target, ratio, seconds
from bench.turns import take_turns

__all__ = ["measure"]


def measure(options: Options) -> Result:
    """Measure the wait of `job` through `CodeExecutionPrimitive`, its memory and its leaks."""
    workshop = options.workshop
    variant = variant_of(workshop, options.variants[0])
    name, code = variant.name, f"import {', '.join(variant.imports)}; print(1)"
    if variant.level != "memory":
        raise ChildError(f"`{name}` has level {variant.level}; this is measured with memory")
    levels = sandboxes(workshop, variant)
    ways = without_template(workshop, variant)
    measured = take_turns(
        {PIP: ways[PIP], UV: ways[UV], **{f"template, level {k}": levels[k] for k in levels}},
        rounds=options.rounds or 1,
    )
    variables = workshop.variables(workshop.cache)
    variables["TEMPLATE_REGISTRY"] = str(workshop.project / "registry.json")
    program = [sys.executable, "-m", "bench.programs.runtime", name, code]
    figures: dict[str, Any] = {}
    for task in ("first", "pool", "leaks"):
        print(f"  {task}", file=sys.stderr, flush=True)
        figures[task] = answer([*program, task], extra=variables)
    first = figures["first"]
    measured["the primitive, first sandbox of a program"] = [_wait(first["first"])]
    measured["the primitive, each further one"] = [_wait(sandbox) for sandbox in first["next"]]
    measured["the primitive, from the pool"] = [
        _wait(sandbox) for sandbox in figures["pool"]["pool"]
    ]
    totals = {way: median(wait.total for wait in waits) for way, waits in measured.items()}
    pooled = median(sandbox["first"] for sandbox in figures["pool"]["pool"])
    session = median(figures["pool"]["open"])
    slowest = totals[PIP]
    return Result(
        title="runtime: from a name to the answer of the imports",
        measured=f"What an application waits for that runs `{code}` in `{name}` on this machine,"
        " and what it would wait for without a template.",
        headings=(
            "way", "sandbox up", "packages installed", "first result", "total", "ratio to pip",
        ),
        rows=tuple(_row(way, waits, slowest) for way, waits in measured.items()),
        targets=(
            Target(
                what=f"{name}, first sandbox of a program to pip",
                value=totals["the primitive, first sandbox of a program"] / slowest,
                limit=1 / 20,
            ),
            Target(
                what=f"{name}, from the pool to pip, in thousandths",
                value=1000 * totals["the primitive, from the pool"] / slowest,
                limit=1,
            ),
            Target(
                what="first execution of a pooled sandbox to one in an open session",
                value=pooled / session,
                limit=3,
            ),
        ),
        notes=(_memory(figures["pool"]["memory"]), *_leaks(figures["leaks"])),
    )  # fmt: skip


def _wait(figures: dict[str, float]) -> Wait:
    return Wait(place=figures["up"], install=0.0, first=figures["first"])


def _row(way: str, waits: list[Wait], slowest: float) -> tuple[str, ...]:
    install = median(wait.install for wait in waits)
    total = median(wait.total for wait in waits)
    return (
        way,
        seconds(median(wait.place for wait in waits)),
        seconds(install) if install else "-",
        seconds(median(wait.first for wait in waits)),
        seconds(total),
        ratio(total / slowest) if total / slowest >= 0.001 else f"{total / slowest:.5f}",
    )


def _memory(usage: dict[str, float]) -> str:
    return (
        f"Memory: the process that sandboxes are forked from has {usage['zygote_pss']:.0f} MiB as"
        f" its share; each of {usage['sandboxes']} pooled sandboxes has {usage['own']:.0f} MiB of"
        f" its own, {usage['pss']:.0f} MiB with its share of what is in memory once for all of"
        f" them; {usage['rss']:.0f} MiB are mapped."
    )


def _leaks(figures: dict[str, dict[str, float]]) -> tuple[str, ...]:
    before = figures["before"]
    return tuple(
        f"After {what}: {now['processes'] - before['processes']:+.0f} processes,"
        f" {now['descriptors'] - before['descriptors']:+.0f} descriptors,"
        f" {now['rss'] - before['rss']:+.1f} MiB in the application, which had"
        f" {before['rss']:.0f}."
        for what, now in (
            ("200 sandboxes, one after another", figures["sequential"]),
            ("40 more, 20 at a time", figures["concurrent"]),
        )
    )
