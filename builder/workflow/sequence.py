"""The sequence of a build, as tuples of stages.

Each stage receives the result of the previous one, and the context. To do less, leave stages out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from builder.workflow.building import build, publish, record, verify
from builder.workflow.context import Context
from builder.workflow.parents import look_up_parents
from builder.workflow.preparing import lock, plan, precheck, reach_engine, render, select, write
from builder.workflow.values import BuildRequest, Prepared

_V = TypeVar("_V")

# All variants together.
PREPARE = (select, look_up_parents, lock, render, plan, precheck)
# A single variant under its claim; variants run in parallel, as the schedule allows.
EACH = (build, verify, publish, record)

# For `render`, `outdated` and `diff`; for `plan`; and for `precheck`, which has no target to plan
# for, and needs an engine before anything else.
RENDER = PREPARE[:4]
PLAN = PREPARE[:-1]
PRECHECK = (select, reach_engine, look_up_parents, lock, render, write, precheck)


def execute(stages: Sequence[Callable[[_V, Context], _V]], value: _V, context: Context) -> _V:
    """Execute each stage in order, beginning with `value`."""
    for stage in stages:
        value = stage(value, context)
    return value


def prepare(
    request: BuildRequest,
    context: Context,
    stages: Sequence[Callable[[Prepared, Context], Prepared]] = PREPARE,
) -> Prepared:
    """Run stages of all variants together."""
    return execute(stages, Prepared(request=request), context)
