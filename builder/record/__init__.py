"""The write side of registry.json: record builds, move channels, revoke and remove builds.

Reading, changing and writing are one step, so that concurrent writers of several processes and
machines lose nothing. Unknown keys are kept. The history tells every change.
"""

from __future__ import annotations

from builder.record.change import Change
from builder.record.channels import (
    Recorded,
    adopt,
    move,
    put_back,
    record,
    repair,
    unhold,
)
from builder.record.fields import Recalled, build_of, contents_of, recalled
from builder.record.publishing import Publish, following
from builder.record.removing import Removal, check_removable, remove
from builder.record.revoking import Content, check_contents, restore, revoke
from builder.record.store import update

__all__ = [
    "Change",
    "Content",
    "Publish",
    "Recalled",
    "Recorded",
    "Removal",
    "adopt",
    "build_of",
    "check_contents",
    "check_removable",
    "contents_of",
    "following",
    "move",
    "put_back",
    "recalled",
    "record",
    "remove",
    "repair",
    "restore",
    "revoke",
    "unhold",
    "update",
]
