"""`template-builder plan --frozen` with nothing to do, beside importing its libraries."""

from __future__ import annotations

import sys
from statistics import median

from bench.child import timed
from bench.options import Options
from bench.result import Result, Target, ratio
from bench.turns import spread, take_turns

__all__ = ["measure"]

_ROUNDS = 21
_LIBRARIES = "import pydantic, jinja2, typer, rich"


def measure(options: Options) -> Result:
    """Build the four templates once, then plan repeatedly."""
    workshop = options.workshop
    workshop.build()
    program = [sys.executable, "-m", "builder", "plan", "--frozen", "--target", "local"]
    # With --exit-code, a plan with something to do fails instead of passing for a fast one.
    program += ["--exit-code", "--project", str(workshop.project)]
    libraries = [sys.executable, "-c", _LIBRARIES]
    measured = take_turns(
        {
            "plan": lambda: timed(
                program, folder=workshop.folder, extra=workshop.variables(workshop.cache)
            ),
            "imports": lambda: timed(libraries, folder=workshop.folder),
        },
        rounds=options.rounds or _ROUNDS,
    )
    value = median(measured["plan"]) / median(measured["imports"])
    return Result(
        title="plan: is there something to do?",
        measured="A whole process that reads the specs, locks and registry of the four built"
        " templates, renders them and finds nothing to do, beside a process that only imports"
        " four of the libraries it is made of.",
        headings=("process", "median", "fastest", "slowest", "ratio"),
        rows=(
            ("`template-builder plan --frozen`", *spread(measured["plan"]), ratio(value)),
            (f'`python -c "{_LIBRARIES}"`', *spread(measured["imports"]), "1"),
        ),
        targets=(Target(what="plan to imports", value=value, limit=1.8),),
    )
