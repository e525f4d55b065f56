"""`template-builder plan --frozen` with nothing to do, beside importing its libraries."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median

from bench.child import cpu_seconds, timed
from bench.options import Options
from bench.result import Result, Target, ratio
from bench.turns import spread, take_turns

__all__ = ["measure"]

_ROUNDS = 21
_IMPORTS = "import pydantic, jinja2, typer, rich"
_MODEL = f"{_IMPORTS}; type('Model', (pydantic.BaseModel,), {{}})"


def measure(options: Options) -> Result:
    """Build the four templates once, then plan repeatedly."""
    workshop = options.workshop
    workshop.build()
    program = [sys.executable, "-m", "builder", "plan", "--frozen", "--target", "local"]
    # With --exit-code, a plan with something to do fails instead of passing for a fast one.
    program += ["--exit-code", "--project", str(workshop.project)]
    run = partial(_processor_time, folder=workshop.folder)
    plan_once = partial(run, program, extra=workshop.variables(workshop.cache))

    def plan_anew() -> float:
        shutil.rmtree(workshop.cache / "specs")
        return plan_once()

    sides: dict[str, Callable[[], float]] = {
        "plan": plan_once,
        "anew": plan_anew,
        "model": partial(run, [sys.executable, "-c", _MODEL]),
        "imports": partial(run, [sys.executable, "-c", _IMPORTS]),
    }
    measured = take_turns(sides, rounds=options.rounds or _ROUNDS)
    plan, anew, model, imports = (median(times) for times in measured.values())
    return Result(
        title="plan: is there something to do?",
        measured="A whole process that reads the specs, locks and registry of the four built"
        " templates, renders them and finds nothing to do, beside a process that only imports"
        " four of the libraries it is made of. Processor time: nothing of it waits.",
        headings=("process", "median", "fastest", "slowest", "ratio"),
        rows=(
            ("`template-builder plan --frozen`", *spread(measured["plan"]), ratio(plan / imports)),
            ("the same, with new specs", *spread(measured["anew"]), ratio(anew / imports)),
            (f'`python -c "{_IMPORTS}"`', *spread(measured["imports"]), "1"),
            (f'`python -c "{_MODEL}"`', *spread(measured["model"]), ratio(model / imports)),
        ),
        targets=(Target(what="plan to imports", value=plan / imports, limit=1.8),),
        notes=(
            (
                "Specs that an earlier run has validated come from the cache, without"
                " pydantic. `import pydantic` alone loads little of pydantic; its first model loads"
                " the rest."
            ),
        ),
    )


def _processor_time(
    command: Sequence[str], *, folder: Path, extra: Mapping[str, str] | None = None
) -> float:
    before = cpu_seconds()
    timed(command, folder=folder, extra=extra)
    return cpu_seconds() - before
