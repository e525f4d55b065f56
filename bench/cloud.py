"""Builds on E2B, side by side: what shared steps save, and what waiting for them costs.

The server is that of the tests; its steps take time and do nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import e2b

from bench.options import Options
from bench.result import Result, Target, ratio, seconds
from bench.turns import take_turns
from builder import plan, workflow
from builder.project import Project
from builder.targets.e2b.account import Account
from builder.targets.e2b.program import template_of
from builder.targets.e2b.target import E2BTarget
from builder.targets.protocol import BuildInput
from builder.workflow.carry_out import carry_out
from tests.support.e2b_server import ModelledSteps, Server

__all__ = ["measure"]

_ROUNDS = 2
_SECONDS = {"RUN": 2.0, "COPY": 0.5, "ENV": 0.5}
_BASE_SECONDS = 2.0
_FINAL_SECONDS = 2.0

Planned = Mapping[str, plan.PlannedVariant]
# How long, and how many steps were run.
Measured = tuple[float, int]


def measure(options: Options) -> Result:
    """Build the product's four templates in four ways, each on its own server."""
    project = Project.find(options.workshop.project)
    request = workflow.BuildRequest(frozen=True)
    prepared = workflow.prepare(request, workflow.Context(project=project), workflow.RENDER)
    planned = plan.make_plan(prepared.results, {}, plan.Situation(target="e2b", steps_cached=True))
    apart = replace(planned, variants=tuple(map(_alone, planned.variants)))
    together, alone = replace(prepared, plan=planned), replace(prepared, plan=apart)
    sides: dict[str, Callable[[], Measured]] = {
        "template-builder": lambda: _ours(project, together),
        "one after another": lambda: _naive(project, together, jobs=1),
        "all at once": lambda: _naive(project, together, jobs=len(planned.variants)),
        "template-builder, nothing shared": lambda: _ours(project, alone),
    }
    measured = take_turns(sides, rounds=options.rounds or _ROUNDS)
    longest = max(map(_modelled, planned.variants))
    distinct = len({key for variant in planned.variants for key in _prefixes(variant)})
    apart_steps = sum(len(variant.step_keys) for variant in apart.variants)
    times = {name: median(value for value, _ in values) for name, values in measured.items()}
    ran = {name: values[-1][1] for name, values in measured.items()}
    return Result(
        title="cloud: four templates on E2B",
        measured="From the first request until the last build is ready, on a server that speaks"
        f" E2B's protocol and takes {_SECONDS['RUN']:.0f} s for a RUN,"
        f" {_SECONDS['COPY']} s for any other step, {_BASE_SECONDS:.0f} s for the base image and"
        f" {_FINAL_SECONDS:.0f} s for the end, its cache being empty. The ratio is to the longest"
        " chain of steps, which nothing can undercut. The naive ways call the SDK's `build`.",
        headings=("way", "time", "ratio", "steps run"),
        rows=tuple(
            (name, seconds(times[name]), ratio(times[name] / longest), str(ran[name]))
            for name in sides
        ),
        targets=(
            Target(
                what="shared steps, to the longest chain",
                value=times["template-builder"] / longest,
                limit=1.1,
            ),
            Target(
                what="nothing shared, to the longest build",
                value=times["template-builder, nothing shared"] / longest,
                limit=1.1,
            ),
            Target(
                what="steps run, to distinct steps",
                value=ran["template-builder"] / distinct,
                limit=1,
            ),
            Target(
                what="steps run, to distinct steps, nothing shared",
                value=ran["template-builder, nothing shared"] / apart_steps,
                limit=1,
            ),
        ),
    )


def _alone(planned: plan.PlannedVariant) -> plan.PlannedVariant:
    """Return the same variant on its own base image."""
    assert planned.program
    return replace(
        planned,
        program=replace(planned.program, base_image=f"{planned.name}:1"),
        step_keys=tuple(f"{planned.name} {key}" for key in planned.step_keys),
        cached=0,
        cached_by=None,
    )


def _prefixes(planned: plan.PlannedVariant) -> list[tuple[str, ...]]:
    return [planned.step_keys[:count] for count in range(1, len(planned.step_keys) + 1)]


def _modelled(planned: plan.PlannedVariant) -> float:
    assert planned.program
    steps = sum(_SECONDS[step.kind] for step in planned.program.steps)
    return _BASE_SECONDS + steps + _FINAL_SECONDS


def _server() -> Server:
    return Server(
        ModelledSteps(
            seconds=lambda step: _SECONDS[step["type"]],
            base_seconds=_BASE_SECONDS,
            final_seconds=_FINAL_SECONDS,
        )
    )


def _measured(server: Server, build: Callable[[], object]) -> Measured:
    os.environ.update(server.environment)
    start = time.monotonic()
    build()
    ended = [build.ended_at for build in server.builds()]
    assert all(ended)
    assert server.problems == []
    return max(ended) - start, len(server.state.executed)


def _ours(project: Project, prepared: workflow.Prepared) -> Measured:
    with _server() as server:
        target = E2BTarget(
            Account(api_key=server.key),
            journal=project.state / "journal" / server.url.rpartition(":")[2],
        )

        context = workflow.Context(project=project, settings=project.targets["e2b"], target=target)
        # Builds are measured, not sandboxes.
        stages = workflow.EACH[:1]
        return _measured(server, lambda: carry_out(prepared, context, stages))


def _naive(project: Project, prepared: workflow.Prepared, *, jobs: int) -> Measured:
    assert prepared.plan
    planned = prepared.plan
    rendered = {rendering.variant.name: rendering for rendering in prepared.rendered}

    def build(variant: plan.PlannedVariant) -> None:
        folder: Path = project.generated / variant.name
        order = BuildInput(rendered=rendered[variant.name], folder=folder, program=variant.program)
        options: dict[str, Any] = {"cpu_count": 2, "memory_mb": 2048}
        e2b.Template.build(template_of(order), variant.name, **options)

    with _server() as server, ThreadPoolExecutor(max_workers=jobs) as pool:
        return _measured(server, lambda: list(pool.map(build, planned.variants)))
