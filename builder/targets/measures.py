"""What was measured of builds: in their records, or beside an environment of this machine."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from builder import registry
from builder.errors import StorageError
from builder.targets.local import place
from builder.targets.protocol import Built

__all__ = ["keep_measures", "measures_of", "with_measures"]


def keep_measures(built: Built, measures: Mapping[str, Any]) -> None:
    """Keep beside a verified build of this machine what was measured of it."""
    if built.folder:
        with contextlib.suppress(StorageError):  # an environment that is shared, and read-only
            place.keep_measures(built.folder, {**measures, "notes": list(built.notes)})


def measures_of(ref: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """What was measured of a recorded build: as its record has it, or, of an environment of this
    machine, what is kept beside that."""
    seconds = fields.get("verified", {}).get("seconds")
    recorded = {"size_bytes": fields.get("size_bytes"), "seconds": seconds}
    measures = {key: value for key, value in recorded.items() if value is not None}
    if registry.is_local(ref):
        measures |= place.measures(place.digest_of(ref))
    return measures


def with_measures(ref: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a build with what was measured of it in its places."""
    measures = measures_of(ref, fields)
    seconds, notes = measures.pop("seconds", None), measures.pop("notes", [])
    merged = {**fields, **measures}
    if seconds:
        merged["verified"] = {**fields.get("verified", {}), "seconds": seconds}
    if notes:
        merged["warnings"] = list(dict.fromkeys([*fields.get("warnings", ()), *notes]))
    return merged
