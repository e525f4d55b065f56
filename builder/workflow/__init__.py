"""The sequence of a build: spec → lock → render → plan → precheck → build → verify → record.

Variants go through it in parallel (`carry_out`); one that fails does not stop the others.
"""

from builder.workflow.base_variables import check_references
from builder.workflow.context import Context, read_registry
from builder.workflow.selection import is_glob, template_names, variants_called
from builder.workflow.sequence import EACH, PLAN, PRECHECK, PREPARE, RENDER, execute, prepare
from builder.workflow.values import Attempt, BuildRequest, Outcome, Prepared

__all__ = [
    "EACH",
    "PLAN",
    "PRECHECK",
    "PREPARE",
    "RENDER",
    "Attempt",
    "BuildRequest",
    "Context",
    "Outcome",
    "Prepared",
    "check_references",
    "execute",
    "is_glob",
    "prepare",
    "read_registry",
    "template_names",
    "variants_called",
]
