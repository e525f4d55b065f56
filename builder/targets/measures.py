"""Measurements of builds: in their records, or beside an environment on this machine."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from builder.errors import StorageError
from builder.registry import Ref
from builder.registry.model import Build, Seconds, Verified
from builder.targets.local import place

if TYPE_CHECKING:
    from builder.targets.protocol import Built


def keep_measures(built: Built, measures: Mapping[str, Any]) -> None:
    """Write the measurements of a verified build on this machine beside it."""
    if built.folder:
        with contextlib.suppress(StorageError):  # a shared environment is read-only
            place.keep_measures(built.folder, {**measures, "notes": list(built.notes)})


def measures_of(ref: str, build: Build) -> dict[str, Any]:
    """Return the measurements of a recorded build, from its record or from beside its environment
    on this machine."""
    seconds = build.verified.seconds if build.verified else None
    recorded = {"size_bytes": build.size_bytes, "seconds": seconds and seconds.to_json()}
    measures = {key: value for key, value in recorded.items() if value is not None}
    if Ref(ref).is_local:
        measures |= place.measures(Ref(ref).digest)
    return measures


def with_measures(ref: str, build: Build) -> Build:
    """Return a recorded build with its measurements filled in."""
    measures = measures_of(ref, build)
    if seconds := measures.get("seconds"):
        verified = replace(build.verified or Verified(), seconds=Seconds.from_json(seconds))
        build = replace(build, verified=verified)
    return replace(
        build,
        size_bytes=measures.get("size_bytes"),
        warnings=tuple(dict.fromkeys([*build.warnings, *measures.get("notes", [])])),
    )
