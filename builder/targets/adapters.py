"""Choose a target and load its adapter. No other module knows the kinds of targets."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from builder.errors import TargetUnavailableError
from builder.project import (
    Project,
    TargetKind,
    TargetSettings,
    address_error,
    domain_error,
    target_called,
)
from builder.system.events import Reporter, discard
from builder.system.isolation import Isolation, isolation_of

if TYPE_CHECKING:
    from builder.targets.protocol import Target


def choose(
    project: Project, name: str | None, environment: Mapping[str, str] = os.environ
) -> tuple[TargetSettings, str]:
    """Return the target and the reason for it: the one `named`, else `e2b` if its key is set, else
    `local`. Raises `TargetUnavailableError`."""
    if choice := named(project, name, environment):
        return choice
    cloud = project.targets["e2b"]
    if environment.get(cloud.api_key_env or "", "").strip():
        return cloud, f"target e2b: {cloud.api_key_env} is set{_where(cloud)}"
    return project.targets["local"], f"target local: the default without {cloud.api_key_env}"


def named(
    project: Project, name: str | None, environment: Mapping[str, str] = os.environ
) -> tuple[TargetSettings, str] | None:
    """Return the target that `name` or else TEMPLATE_TARGET names, and which of the two did; None
    if neither does. Raises `TargetUnavailableError`."""
    if name is not None:
        settings = target_called(name, project.targets)
        return settings, f"target {name}: requested{_where(settings)}"
    variable = environment.get("TEMPLATE_TARGET", "").strip()
    if not variable:
        return None
    try:
        settings = target_called(variable, project.targets)
    except TargetUnavailableError as error:
        raise TargetUnavailableError(
            f"TEMPLATE_TARGET is {variable!r}: {error.message}", hint=error.hint
        ) from error
    return settings, f"target {variable}: set by TEMPLATE_TARGET{_where(settings)}"


def choose_account(project: Project, name: str | None) -> tuple[TargetSettings, str | None]:
    """Return the target that was `named`, with the reason for it, or else `e2b`."""
    return named(project, name) or (project.targets["e2b"], None)


def _where(settings: TargetSettings) -> str:
    """Return the address of a target that is not E2B's own cloud."""
    if not settings.has_account:
        return ""
    if place := settings.api_url or settings.domain:
        return f", at {place}"
    url = os.environ.get("E2B_API_URL")
    if url and not address_error(url):  # an invalid one may contain a password
        return f", at {url} (from E2B_API_URL)"
    domain = os.environ.get("E2B_DOMAIN")
    return f", at {domain}" if domain and not domain_error(domain) else ""


def isolation_in_words(settings: TargetSettings, project: Project) -> str:
    """Return how a target's sandboxes are isolated from this machine, as the end of a line; empty
    for a target with an account."""
    if settings.has_account:
        return ""
    return f"; its sandboxes are {isolation_words(isolation_of(None, project.isolation))}"


def isolation_words(isolation: Isolation) -> str:
    """Return what confines sandboxes on this machine, or that nothing does."""
    from builder.targets.local.confine import bubblewrap

    if isolation == "none":
        return "not confined"
    try:
        return f"confined by {bubblewrap.working()}"
    except bubblewrap.ConfinementError as error:
        reason = error.message.partition(": ")[2] or error.message
        return f"NOT confined: {reason}; `template-builder doctor` says what to do"


def connect(settings: TargetSettings, project: Project, *, report: Reporter = discard) -> Target:
    """Return the adapter of a target. Raises `TargetUnavailableError` if its key is missing or
    malformed."""
    if settings.kind is TargetKind.LOCAL:
        from builder.targets.local.target import LocalTarget

        isolation = isolation_of(None, project.isolation)
        return LocalTarget(
            name=settings.name, registry=project.registry, isolation=isolation, report=report
        )
    variable = settings.api_key_env or "E2B_API_KEY"
    key = os.environ.get(variable, "").strip()
    if not key:
        raise TargetUnavailableError(
            f"target `{settings.name}` needs an account: `{variable}` is not set",
            hint=f"set `{variable}` to an API key, or use `--target local`, which needs none",
        )
    from builder.targets.e2b.account import Account
    from builder.targets.e2b.target import E2BTarget

    account = Account.of(settings, key)
    return E2BTarget(account, journal=project.state / "journal", report=report)
