"""Finding and removing what no template needs any more: environments, images, tags."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from builder import registry
from builder.errors import TemplateError
from builder.operations.retention import Keep, needed
from builder.project import Project
from builder.targets.protocol import Cleaner, Need, Needs, Unused
from builder.workflow import read_registry


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """Waste, and who keeps it; `kept` is why it was not removed after all."""

    place: str
    cleaner: Cleaner
    waste: Unused
    kept: str | None = None

    def to_json(self) -> dict[str, Any]:
        """It as plain values."""
        return {"place": self.place, **self.waste.to_json(), "kept": self.kept}


def find_waste(
    project: Project,
    cleaners: Mapping[str, Cleaner],
    keep: Keep,
    *,
    protect_days: float,
    forget: Sequence[str] = (),
) -> list[Found]:
    """All that nothing needs, by place. Raises `RegistryError`, and what the places raise.

    What any registry needs that builds of this machine are recorded in is kept, not only what this
    project's does; of one that is not there, or cannot be read, everything. Registries at or below
    the paths of `forget` need nothing.
    """
    own = read_registry(project)

    @cache
    def wanted(location: str) -> dict[str, str] | None:
        if location == "":
            return _digests(own, keep)
        if any(_is_within(location, folder) for folder in forget):
            return {}
        try:
            return _digests(registry.load(location), keep)
        except TemplateError:
            return None

    def need(location: str, digest: str) -> Need | None:
        found = wanted(location)
        if found is not None:
            return Need(why=found[digest]) if digest in found else None
        there = registry.is_url(location) or os.path.exists(location)
        state = "cannot be read" if there else "is not there"
        return Need(
            why=f"{location}, which may need it, {state}; if it is gone for good:"
            f" `template-builder gc --forget {shlex.quote(location)}`",
            known=False,
        )

    return [
        Found(place=place, cleaner=cleaner, waste=waste, kept=waste.kept)
        for place, cleaner in cleaners.items()
        for waste in cleaner.unused(
            Needs(
                templates={name: t[place] for name, t in own.templates.items() if place in t},
                of=need,
                protect_seconds=protect_days * 86400,
            )
        )
    ]


def remove_waste(found: Iterable[Found], tell: Callable[[Found], None]) -> Sequence[Found]:
    """Remove it, one after the other; what became of each, of which `tell` is told at once."""
    done = []
    for one in found:
        kept = one.kept or one.cleaner.remove(one.waste)
        done.append(Found(place=one.place, cleaner=one.cleaner, waste=one.waste, kept=kept))
        tell(done[-1])
    return done


def _is_within(location: str, folder: str) -> bool:
    if registry.is_url(location) or registry.is_url(folder):
        return location == folder
    return Path(location).is_relative_to(os.path.realpath(folder))


def _digests(found: registry.Registry, keep: Keep) -> dict[str, str]:
    """Digest → why it is needed."""
    return {
        digest: why
        for targets in found.templates.values()
        for entry in targets.values()
        for ref, why in needed(entry, keep).items()
        if (digest := entry.builds[ref].digest) is not None
    }
