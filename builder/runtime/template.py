"""Find the template that an application names."""

from __future__ import annotations

import os
from dataclasses import dataclass

from builder import registry
from builder.errors import (
    NotBuiltError,
    RevokedError,
    SandboxError,
    UnknownTemplateError,
    did_you_mean,
)
from builder.project import isolation_here, keeps_zygotes, target_here
from builder.registry.cached import about, about_build, loaded
from builder.sandbox.network import Network
from builder.system.isolation import Isolation
from builder.targets.e2b.account import Account, account_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """A template. Its sandboxes are created from `ref`, which is fixed; `imports` warm them up.

    `registry` is where it was looked up, as an absolute path or a URL, and where revocations are
    checked, even after the application has changed its folder. `name` is its name there, None for
    a template known only to E2B; `account` is None on `local`, and `isolation` elsewhere. `network`
    None is the target's default.
    """

    ref: str
    target: str
    local: bool
    registry: str
    name: str | None = None
    level: str = "none"
    imports: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    network: Network | None = None
    isolation: Isolation | None = None
    keep_zygote: bool = False
    cpu: int | None = None
    memory_mb: int | None = None
    account: Account | None = None

    @property
    def attributes(self) -> dict[str, str]:
        """The attributes of its spans and metrics."""
        return {
            "template.name": self.name or self.ref,
            "template.ref": self.ref,
            "template.target": self.target,
            "sandbox.isolation": self.isolation or "virtual machine",
        }


def find(
    template_id: str | None,
    *,
    target: str | None,
    channel: str,
    api_key: str | None,
    isolation: str | None = None,
) -> Template:
    """Find a template by its name in the registry, or by its ID, name or ref on E2B.

    The target is `e2b` unless `target` or `TEMPLATE_TARGET` names another: code runs on this
    machine only on request, with the `isolation` requested. Raises the registry's `LookupError`s,
    and `TargetUnavailableError` (also a `ValueError`) if a key is missing, and `SandboxError` if
    nothing runs code in its sandboxes.
    """
    if not template_id:
        raise MissingTemplateError(
            "`template_id` is missing: it names the template to run code in",
            hint="use a name in the registry (`template-builder list`), or the ID of a template on"
            " E2B, such as `code-interpreter-v1` for the stock image",
        )
    name = target or os.environ.get("TEMPLATE_TARGET") or "e2b"
    settings = target_here(name)
    local = not settings.has_account
    if not local and isolation not in (None, "confined"):  # a virtual machine is more than that
        raise ValueError(
            f"isolation is {isolation!r}, but sandboxes of the target `{name}` are virtual"
            " machines: only the target `local` runs code without isolation"
        )
    owner = None if local else account_of(settings, api_key)
    location = registry.find()
    if not registry.is_url(location):
        location = os.path.abspath(location)
    known = about(template_id, location)
    if template_id in known.names:
        record = _lookup(known, template_id, name, channel)
        if not local and not record.build.runs_code:
            raise SandboxError(
                f"nothing runs code in sandboxes of `{template_id}` on {name}: its service is not"
                " E2B's code service",
                hint="run commands in them, and reach its service, with E2B's SDK",
            )
    else:
        _check_ref(known, template_id, name)
        if local:
            raise UnknownTemplateError(
                f"there is no template `{template_id}` in {known.path}",
                hint=did_you_mean(template_id, loaded(location).names)
                or "target `local` can only use templates in the registry",
            )
        return Template(ref=template_id, target=name, local=False, registry=location, account=owner)
    return Template(
        ref=record.ref,
        target=name,
        local=local,
        registry=location,
        name=template_id,
        level=record.level,
        imports=record.imports,
        env=tuple(sorted(record.env.items())),
        network=record.network,
        isolation=isolation_here(isolation) if local else None,
        keep_zygote=local and keeps_zygotes(),
        cpu=record.resources.get("cpu"),
        memory_mb=record.resources.get("memory_mb"),
        account=owner,
    )


def check_not_revoked(template: Template) -> None:
    """Raise `RevokedError` if the build was revoked since it was looked up."""
    ref, target, location = template.ref, template.target, template.registry
    if template.name:
        known = about_build(ref, location, name=template.name, target=target)
    else:
        known = about(ref, location)
    _check_ref(known, ref, target)


def near_names(template: Template) -> str | None:
    """Suggest names of its registry that are similar to a template's ref."""
    return did_you_mean(template.ref, loaded(template.registry).names)


class MissingTemplateError(UnknownTemplateError, ValueError):
    """No template was named."""


def _lookup(known: registry.Registry, name: str, target: str, channel: str) -> registry.Record:
    try:
        return known.lookup(name, target=target, channel=channel)
    except NotBuiltError as error:
        for other, entry in sorted(known.templates[name].items()):
            if other != target and any(ref.is_local for ref in entry.channels.values()):
                raise NotBuiltError(
                    error.message,
                    hint=f'it is built for this machine: target="{other}" runs code here',
                ) from error
        raise


def _check_ref(known: registry.Registry, ref: str, target: str) -> None:
    """Raise `RevokedError` for a revoked build, even if it is named by its ref."""
    for record in known.records(ref=ref, target=target):
        if record.revoked:
            raise RevokedError(
                f"build `{ref}` of `{record.name}` is {record.build.revocation}",
                hint=f"`template-builder list` shows the other builds of `{record.name}`",
            )
