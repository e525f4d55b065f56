"""What the pipeline asks of a target, and which target it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from builder import registry
from builder.errors import TargetUnavailableError
from builder.plan import TargetState
from builder.project import Project, TargetSettings, target_called
from builder.render import Rendered
from builder.sandbox.session import SandboxOpener
from builder.spec import Variant
from builder.system.events import Reporter, discard
from builder.targets.protocol import Builder, Built, Cleaner, Tagged

__all__ = ["Target", "choose", "connect", "measures_of", "named", "with_measures"]


class Target(Builder, SandboxOpener, Cleaner, Protocol):
    """All that the pipeline asks of a target."""

    @property
    def name(self) -> str:
        """What the target is called."""
        ...

    @property
    def steps_cached(self) -> bool:
        """Whether the target builds in steps, and keeps what each made for the next build."""
        ...

    @property
    def content_addressed(self) -> bool:
        """Whether what has the same digest is the same build, with the same ref."""
        ...

    @property
    def this_machine(self) -> bool:
        """Whether its builds are files of this machine, which another one does not have."""
        ...

    @property
    def jobs(self) -> int:
        """How many builds at a time are sensible."""
        ...

    def account(self) -> str:
        """Ask the target for the account, and describe it. Raises `TargetUnavailableError` for a
        key that is refused, `NetworkError`, `LimitError`, `BuildError`."""
        ...

    def tidy(self) -> None:
        """Remove what runs that were killed have left behind."""
        ...

    def look(self, rendered: Rendered, entry: Mapping[str, Any], channel: str) -> TargetState:
        """What the target has of a variant; `entry` is its part of the registry."""
        ...

    def unsupported(self, variant: Variant) -> tuple[str, ...]:
        """What of the variant this target cannot provide, in words."""
        ...

    def blocked(self, variant: Variant) -> str | None:
        """Why the variant cannot be built here at all, or None."""
        ...

    def claimed(self, name: str, *, report: Reporter) -> AbstractContextManager[None]:
        """Keep others from building the same, for the `with` block, as far as this needs it."""
        ...

    def publish(
        self,
        name: str,
        fields: Mapping[str, Any],
        *,
        channel: str | None,
        over: Collection[str] | None = frozenset(),
    ) -> Callable[[], None] | None:
        """Have `channel` of the target's own (None is none) point at a verified build, of which
        `fields` is the record; returns what takes that back, if there is something to take back.

        `over` are the IDs of builds that give way though they are newer (None is all). Raises
        `OvertakenError` where another newer one has the channel, `BuildError` and its kin; then it
        points where it pointed.
        """
        ...

    def withdraw(
        self,
        name: str,
        builds: Sequence[Mapping[str, Any]],
        *,
        channels: Mapping[str, Mapping[str, Any]],
    ) -> str | None:
        """Let go of what `publish` has moved to `builds`, by their records, and of `channels`, by
        the records of what they pointed at; returns what a person should know of what stays."""
        ...

    def examine(self, ref: str) -> dict[str, Any]:
        """Look for a template that was not built here, `ID` or `ID:build`; what to record of it.

        Raises `BuildError` when there is none that sandboxes can be created from.
        """
        ...

    def tagged(self, name: str) -> list[Tagged]:
        """The builds of template `name` that the target has and tags lead to."""
        ...

    def keep(self, built: Built, measures: Mapping[str, Any]) -> None:
        """Keep what was measured of a verified build, where the record does not."""
        ...

    def forget(self, name: str, build_id: str) -> None:
        """A build of `name` is recorded: what was kept for a run that takes it up can go."""
        ...


def choose(
    project: Project, name: str | None, environment: Mapping[str, str] = os.environ
) -> tuple[TargetSettings, str]:
    """The target to use and the sentence that says why: the one `named`, `e2b` when its key is set,
    else `local`. Raises `TargetUnavailableError`."""
    if asked := named(project, name, environment):
        return asked
    cloud = project.targets["e2b"]
    if environment.get(cloud.api_key_env or "", "").strip():
        return cloud, f"target e2b: {cloud.api_key_env} is set{_where(cloud)}"
    return project.targets["local"], f"target local: {cloud.api_key_env} is not set"


def named(
    project: Project, name: str | None, environment: Mapping[str, str] = os.environ
) -> tuple[TargetSettings, str] | None:
    """The target that `name` or else TEMPLATE_TARGET names, and the sentence that says which of the
    two; None when neither does. Raises `TargetUnavailableError`."""
    if name is not None:
        settings = target_called(name, project.targets)
        return settings, f"target {name}: asked for{_where(settings)}"
    variable = environment.get("TEMPLATE_TARGET", "").strip()
    if not variable:
        return None
    try:
        settings = target_called(variable, project.targets)
    except TargetUnavailableError as error:
        raise TargetUnavailableError(
            f"TEMPLATE_TARGET is {variable!r}: {error.message}", hint=error.hint
        ) from error
    return settings, f"target {variable}: TEMPLATE_TARGET names it{_where(settings)}"


def measures_of(ref: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """What was measured of a recorded build: as its record has it, or, of an environment of this
    machine, what is kept beside that."""
    seconds = fields.get("verified", {}).get("seconds")
    recorded = {"size_bytes": fields.get("size_bytes"), "seconds": seconds}
    found = {key: value for key, value in recorded.items() if value is not None}
    if registry.is_local(ref):
        from builder.targets.local import place

        found |= place.measures(place.digest_of(ref))
    return found


def with_measures(ref: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a build with what was measured of it in its places."""
    found = measures_of(ref, fields)
    seconds, notes = found.pop("seconds", None), found.pop("notes", [])
    merged = {**fields, **found}
    if seconds:
        merged["verified"] = {**fields.get("verified", {}), "seconds": seconds}
    if notes:
        merged["warnings"] = list(dict.fromkeys([*fields.get("warnings", ()), *notes]))
    return merged


def _where(settings: TargetSettings) -> str:
    """Where another place than E2B's own cloud is meant."""
    if settings.kind == "local":
        return ""
    if settings.api_url:
        return f", at {settings.api_url}"
    if url := os.environ.get("E2B_API_URL"):
        return f", and E2B_API_URL points it at {url}"
    domain = settings.domain or os.environ.get("E2B_DOMAIN")
    return f", at {domain}" if domain else ""


def connect(settings: TargetSettings, project: Project, *, report: Reporter = discard) -> Target:
    """The adapter of a target. Raises `TargetUnavailableError` when its key is not set."""
    if settings.kind == "local":
        from builder.targets.local.target import LocalTarget

        return LocalTarget(name=settings.name, registry=project.registry)
    variable = settings.api_key_env or "E2B_API_KEY"
    key = os.environ.get(variable, "").strip()
    if not key:
        raise TargetUnavailableError(
            f"target `{settings.name}` needs an account: `{variable}` is not set",
            hint=f"set `{variable}` to a key of it, or use `--target local`, which needs none",
        )
    from builder.targets.e2b.account import Account
    from builder.targets.e2b.target import E2BTarget

    return E2BTarget(
        name=settings.name,
        account=Account.of(settings, key),
        key_variable=variable,
        journal=project.state / "journal",
        report=report,
    )
