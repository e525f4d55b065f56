"""The places to build on; each adapter is loaded when it is asked for."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Protocol

from builder.build import Builder
from builder.errors import TargetUnavailableError, did_you_mean
from builder.project import Project, TargetSettings
from builder.spec import Variant
from builder.verify import SandboxOpener

__all__ = ["Target", "choose", "connect"]


class Target(Builder, SandboxOpener, Protocol):
    """All that the pipeline asks of a target."""

    def tidy(self) -> None:
        """Remove what runs that were killed have left behind."""
        ...

    def present(self, digests: Iterable[str]) -> frozenset[str]:
        """Those of `digests` whose build is there and usable."""
        ...

    def lacking(self, variant: Variant) -> tuple[str, ...]:
        """What of the variant this target cannot provide, in words."""
        ...

    def blocked(self, variant: Variant) -> str | None:
        """Why the variant cannot be built here at all, or None."""
        ...


def choose(
    project: Project, name: str | None, environment: Mapping[str, str] = os.environ
) -> tuple[TargetSettings, str]:
    """The target to use and the sentence that says why. Raises `TargetUnavailableError`."""
    if name is not None:
        if name not in project.targets:
            raise TargetUnavailableError(
                f"there is no target `{name}`; there are: {', '.join(sorted(project.targets))}",
                hint=did_you_mean(name, project.targets),
            )
        return project.targets[name], f"target {name}: asked for"
    if environment.get("E2B_API_KEY"):
        return project.targets["local"], (
            "target local: E2B_API_KEY is set, but this version cannot build on e2b yet"
        )
    return project.targets["local"], "target local: E2B_API_KEY is not set"


def connect(settings: TargetSettings) -> Target:
    """The adapter of a target. Raises `TargetUnavailableError`."""
    if settings.kind == "local":
        from builder.targets.local import LocalTarget

        return LocalTarget(name=settings.name)
    raise TargetUnavailableError(
        f"target `{settings.name}` is not there yet: this version builds on `local` only",
        hint="use `--target local`: no account and no Docker needed",
    )
