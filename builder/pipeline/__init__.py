"""The sequence, in one place: spec → lock → render → plan → build → verify → record.

Variants go through it side by side, each on its own: one that fails stops none of the others. It
reports events and returns values; it never prints.
"""

from __future__ import annotations

from builder.pipeline.carry_out import Outcome, build
from builder.pipeline.channels import Moved, adopt, promote, rollback, unhold
from builder.pipeline.clean_up import Found, find_waste, remove_waste
from builder.pipeline.outdated import Outdated, outdated
from builder.pipeline.prepare import (
    Prepared,
    make_plan,
    precheck_all,
    prepare,
    read_registry,
)
from builder.pipeline.rebuild import rebuild
from builder.pipeline.removing import Removal, removal_of, remove
from builder.pipeline.reverify import Reverified, reverify
from builder.pipeline.selection import is_glob, select, template_names

__all__ = [
    "Found",
    "Moved",
    "Outcome",
    "Outdated",
    "Prepared",
    "Removal",
    "Reverified",
    "adopt",
    "build",
    "find_waste",
    "is_glob",
    "make_plan",
    "outdated",
    "precheck_all",
    "prepare",
    "promote",
    "read_registry",
    "rebuild",
    "removal_of",
    "remove",
    "remove_waste",
    "reverify",
    "rollback",
    "select",
    "template_names",
    "unhold",
]
