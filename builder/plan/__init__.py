"""Plan a build: an action for each variant, with reasons that carry the old and new values.

A plan is a pure function of the rendered variants, the registry and the state of the target.
"""

from __future__ import annotations

from builder.plan.decide import make_plan
from builder.plan.inputs import differences, inputs_of
from builder.plan.steps import common_steps, program_of, step_keys_of
from builder.plan.values import (
    Drift,
    Plan,
    PlannedVariant,
    Reason,
    Situation,
    StateQuery,
    TargetState,
)

__all__ = [
    "Drift",
    "Plan",
    "PlannedVariant",
    "Reason",
    "Situation",
    "StateQuery",
    "TargetState",
    "common_steps",
    "differences",
    "inputs_of",
    "make_plan",
    "program_of",
    "step_keys_of",
]
