"""Finding and removing what no template needs any more: environments, images, tags."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from builder import registry
from builder.build import Cleaner, Waste
from builder.errors import TemplateError
from builder.pipeline.prepare import read_registry
from builder.project import Project
from builder.retention import Keep, needed

__all__ = ["Found", "find_waste", "remove_waste"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """Waste, and who keeps it; `kept` is why it was not removed after all."""

    place: str
    cleaner: Cleaner
    waste: Waste
    kept: str | None = None

    def to_json(self) -> dict[str, Any]:
        """It as plain values."""
        return {"place": self.place, **self.waste.to_json(), "kept": self.kept}


def find_waste(
    project: Project, cleaners: Mapping[str, Cleaner], keep: Keep, *, protect_days: float
) -> list[Found]:
    """All that nothing needs, by place. Raises `RegistryError`, and what the places raise.

    What any registry needs that builds of this machine are recorded in is kept, not only what this
    project's does; of one that cannot be read, everything.
    """
    own = read_registry(project)

    @cache
    def wanted(location: str) -> dict[str, str] | None:
        if location == "":
            return _digests(own, keep)
        if not registry.is_url(location) and not os.path.exists(location):
            return {}
        try:
            return _digests(registry.load(location).checked(), keep)
        except TemplateError:
            return None

    def needs(location: str, digest: str) -> str | None:
        found = wanted(location)
        return f"{location} cannot be read" if found is None else found.get(digest)

    return [
        Found(place=place, cleaner=cleaner, waste=waste)
        for place, cleaner in cleaners.items()
        for waste in cleaner.unused(
            {name: t[place] for name, t in own.templates.items() if place in t},
            needs,
            protect_days * 86400,
        )
    ]


def remove_waste(found: Iterable[Found], tell: Callable[[Found], None]) -> Sequence[Found]:
    """Remove it, one after the other; what became of each, of which `tell` is told at once."""
    done = []
    for one in found:
        kept = one.cleaner.remove(one.waste)
        done.append(Found(place=one.place, cleaner=one.cleaner, waste=one.waste, kept=kept))
        tell(done[-1])
    return done


def _digests(found: registry.Registry, keep: Keep) -> dict[str, str]:
    """Digest → why it is needed."""
    return {
        entry["builds"][ref]["digest"]: why
        for targets in found.templates.values()
        for entry in targets.values()
        for ref, why in needed(entry, keep).items()
        if "digest" in entry["builds"][ref]
    }
