"""`template-builder build --frozen` on `local`, beside a script of uv commands that does the same.

Verification is left out, because the script has none.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from statistics import median

from bench.child import ChildError, cpu_seconds, timed
from bench.options import Options
from bench.result import Result, Target, ratio, seconds
from bench.turns import spread, take_turns
from bench.workshop import Workshop
from builder import workflow
from builder.project import Project
from builder.render import Rendered
from builder.system import uv
from builder.system.files import remove_tree
from builder.targets.local import interpreter

__all__ = ["measure"]

_ROUNDS = 5
_NOISE = (
    "These rounds are long and read and write gigabytes, so whatever else the machine does shows in"
    " them: where fastest and slowest of the two sides overlap, the CPU ratio says more."
)


def measure(options: Options) -> Result:
    """Build all templates on both sides in turns, each time from nothing but uv's cache."""
    workshop = options.workshop
    workshop.require_space(4)
    cache, plain = workshop.folder / "build-cache", workshop.folder / "plain"
    task = workshop.folder / "plain.json"
    environments = _environments(workshop, plain)
    jobs = workflow.BuildRequest().jobs
    task_data = {"uv": uv.binary(), "jobs": jobs, "environments": environments}
    task.write_text(json.dumps(task_data), encoding="utf-8")
    ours = [sys.executable, "-m", "bench.programs.ours", str(workshop.project)]
    theirs = [sys.executable, "-m", "bench.programs.plain", str(task)]
    measured = take_turns(
        {
            "build": lambda: _fresh(ours, cache, workshop.variables(cache)),
            "plain uv": lambda: _fresh(theirs, plain, {}),
        },
        rounds=options.rounds or _ROUNDS,
    )
    ours_wall, ours_cpu = zip(*measured["build"], strict=True)
    theirs_wall, theirs_cpu = zip(*measured["plain uv"], strict=True)
    value = median(ours_wall) / median(theirs_wall)
    cpu_value = median(ours_cpu) / median(theirs_cpu)
    return Result(
        title=f"build: {len(environments)} templates on `local`",
        measured="Everything from the committed locks to environments with byte code, uv's cache"
        f" being warm, {jobs} at a time on both sides. The script calls `uv venv`, `uv pip install`"
        " with the same lock files, `uv pip install ipykernel`, and imports the warm-up modules"
        " once. Neither side verifies.",
        headings=("process", "median", "fastest", "slowest", "ratio", "CPU time", "CPU ratio"),
        rows=(
            (
                "`template-builder build --frozen`, no checks",
                *spread(ours_wall),
                ratio(value),
                seconds(median(ours_cpu)),
                ratio(cpu_value),
            ),
            (
                "the uv commands in a script",
                *spread(theirs_wall),
                "1",
                seconds(median(theirs_cpu)),
                "1",
            ),
        ),
        targets=(Target(what="build to plain uv", value=value, limit=1.2),),
        notes=(_NOISE,),
    )


def _fresh(command: list[str], folder: Path, variables: dict[str, str]) -> tuple[float, float]:
    # Flush what the other side wrote, so that this side is not slowed down by it.
    os.sync()
    before = cpu_seconds()
    try:
        wall = timed(command, extra=variables)
        return wall, cpu_seconds() - before
    finally:
        remove_tree(folder)


def _environments(workshop: Workshop, folder: Path) -> list[dict[str, object]]:
    project = Project.find(workshop.project)
    request = workflow.BuildRequest(frozen=True)
    prepared = workflow.prepare(request, workflow.Context(project=project), workflow.RENDER)
    inputs: list[dict[str, object]] = []
    for name, rendered in prepared.results.items():
        if not isinstance(rendered, Rendered):
            raise ChildError(str(rendered))
        stages = [stage for stage in rendered.lock.stages if stage.text]
        locks = project.generated / name / "requirements"
        inputs.append(
            {
                "folder": str(folder / name),
                "python": interpreter.choose(rendered.variant.python),
                "requirements": [str(locks / f"{stage.stem}.txt") for stage in stages],
                "torch_backend": next((s.torch_backend for s in stages if s.torch_backend), None),
                "imports": list(rendered.variant.imports),
            }
        )
    return inputs
