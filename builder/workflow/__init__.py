"""The sequence, in one place: spec → lock → render → plan → precheck → build → verify → record.

Variants go through it side by side, each on its own: one that fails stops none of the others.
"""

from builder.workflow.carry_out import Outcome, build
from builder.workflow.prepare import Prepared, make_plan, precheck_all, prepare, read_registry
from builder.workflow.selection import is_glob, select, template_names

__all__ = [
    "Outcome",
    "Prepared",
    "build",
    "is_glob",
    "make_plan",
    "precheck_all",
    "prepare",
    "read_registry",
    "select",
    "template_names",
]
