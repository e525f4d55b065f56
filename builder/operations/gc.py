"""Find and remove environments, images and tags that no template needs any more."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
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
class Candidate:
    """Something unused, and the cleaner that can remove it; `kept` is why it was kept."""

    place: str
    cleaner: Cleaner
    unused: Unused
    kept: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the candidate as plain values."""
        return {"place": self.place, **self.unused.to_json(), "kept": self.kept}


def find_unused(
    project: Project,
    cleaners: Mapping[str, Cleaner],
    keep: Keep,
    *,
    protect_days: float,
    forget: Sequence[str] = (),
) -> list[Candidate]:
    """Return everything unused, by place. Raise `RegistryError`, and what the cleaners raise.

    Every registry that records builds of this machine counts, not only the project's. A missing or
    unreadable registry needs everything; one at or below a path of `forget` needs nothing.
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
        digests = wanted(location)
        if digests is not None:
            return Need(why=digests[digest]) if digest in digests else None
        there = registry.is_url(location) or os.path.exists(location)
        state = "cannot be read" if there else "is not there"
        return Need(
            why=f"{location}, which may need it, {state}; if it is gone for good:"
            f" `template-builder gc --forget {shlex.quote(location)}`",
            known=False,
        )

    return [
        Candidate(place=place, cleaner=cleaner, unused=unused, kept=unused.kept)
        for place, cleaner in cleaners.items()
        for unused in cleaner.unused(
            Needs(
                templates={name: t[place] for name, t in own.templates.items() if place in t},
                of=need,
                protect_seconds=protect_days * 86400,
            )
        )
    ]


def remove_unused(
    candidates: Iterable[Candidate], report: Callable[[Candidate], None]
) -> list[Candidate]:
    """Remove the candidates one by one, and call `report` with each outcome."""
    outcomes = []
    for candidate in candidates:
        kept = candidate.kept or candidate.cleaner.remove(candidate.unused)
        outcomes.append(replace(candidate, kept=kept))
        report(outcomes[-1])
    return outcomes


def _is_within(location: str, folder: str) -> bool:
    if registry.is_url(location) or registry.is_url(folder):
        return location == folder
    return Path(location).is_relative_to(os.path.realpath(folder))


def _digests(recorded: registry.Registry, keep: Keep) -> dict[str, str]:
    """Return digest → why it is needed."""
    return {
        digest: why
        for targets in recorded.templates.values()
        for entry in targets.values()
        for ref, why in needed(entry, keep).items()
        if (digest := entry.builds[ref].digest) is not None
    }
