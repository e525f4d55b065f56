"""The sequence of a build, in the one place where it is spelt out.

A stage takes the result of the one before, and the context; whoever needs less leaves stages out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from builder.workflow.building import build, publish, record, verify
from builder.workflow.context import Context
from builder.workflow.preparing import lock, plan, precheck, reach_engine, render, select, write
from builder.workflow.values import BuildRequest, Prepared

_V = TypeVar("_V")

# All variants at once.
PREPARE = (select, lock, render, plan, precheck)
# One variant under its claim; variants side by side, as the schedule allows.
EACH = (build, verify, publish, record)

# What `render`, `outdated` and `diff` need, what `plan` needs, and `precheck`, which has no target
# to make a plan for, and nothing to do where there is no engine.
RENDER = PREPARE[:3]
PLAN = PREPARE[:-1]
PRECHECK = (select, reach_engine, lock, render, write, precheck)


def execute(stages: Sequence[Callable[[_V, Context], _V]], value: _V, context: Context) -> _V:
    """Run `stages` in their order; each receives the result of the one before, the first `value`.

    Raises what a stage raises; then the rest are not run.
    """
    for stage in stages:
        value = stage(value, context)
    return value


def prepare(
    request: BuildRequest,
    context: Context,
    stages: Sequence[Callable[[Prepared, Context], Prepared]] = PREPARE,
) -> Prepared:
    """Run the stages that all variants go through at once, up to where the caller needs it."""
    return execute(stages, Prepared(request=request), context)
