"""From what an application names to what a sandbox of it is created from."""

from __future__ import annotations

import os
from dataclasses import dataclass

from builder import registry
from builder.errors import (
    NotBuiltError,
    RevokedError,
    UnknownTemplateError,
    did_you_mean,
)
from builder.project import target_here
from builder.registry.cached import about, about_build, loaded
from builder.targets.e2b.account import Account, account_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """What sandboxes are created from. `ref` never moves; `imports` are the warm-up's modules.

    `registry` is where it was looked up, as an absolute path or a URL: that one tells whether it
    was revoked since, wherever the application has changed to. `name` is its name there, None for
    what is E2B's own; `account` is None on `local`.
    """

    ref: str
    target: str
    local: bool
    registry: str
    name: str | None = None
    level: str = "none"
    imports: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    account: Account | None = None

    @property
    def attributes(self) -> dict[str, str]:
        """What spans and metrics say of it."""
        return {
            "template.name": self.name or self.ref,
            "template.ref": self.ref,
            "template.target": self.target,
        }


def find(asked: str | None, *, target: str | None, channel: str, api_key: str | None) -> Template:
    """The template that `asked` means: a name of the registry, or an ID, name or ref of E2B's own.

    The target is `e2b` unless `target` or `TEMPLATE_TARGET` names another: code is run on this
    machine only where somebody asked for that by name. Raises `LookupError`s of the registry, and
    `TargetUnavailableError` (also a `ValueError`) where a key is missing.
    """
    if not asked:
        raise MissingTemplateError(
            "`template_id` is missing: which template is the code to run in?",
            hint="name one of the registry (`template-builder list`), or one of E2B's own by its"
            ' ID; the stock image has to be asked for, too: template_id="code-interpreter-v1"',
        )
    name = target or os.environ.get("TEMPLATE_TARGET") or "e2b"
    settings = target_here(name)
    local = not settings.has_account
    owner = None if local else account_of(settings, api_key)
    location = registry.find()
    if not registry.is_url(location):
        location = os.path.abspath(location)
    known = about(asked, location)
    if asked in known.names:
        record = _lookup(known, asked, name, channel)
    else:
        _check_ref(known, asked, name)
        if local:
            raise UnknownTemplateError(
                f"there is no template `{asked}` in {known.path}",
                hint=did_you_mean(asked, loaded(location).names)
                or "on target `local` only templates of the registry can be used",
            )
        return Template(ref=asked, target=name, local=False, registry=location, account=owner)
    return Template(
        ref=record.ref,
        target=name,
        local=local,
        registry=location,
        name=asked,
        level=record.level,
        imports=record.imports,
        env=tuple(sorted(record.env.items())),
        account=owner,
    )


def check_not_revoked(template: Template) -> None:
    """Raises `RevokedError` when the build was revoked since it was found."""
    ref, target, location = template.ref, template.target, template.registry
    if template.name:
        known = about_build(ref, location, name=template.name, target=target)
    else:
        known = about(ref, location)
    _check_ref(known, ref, target)


def near_names(template: Template) -> str | None:
    """A hint at names of its registry that a template's ref may have meant."""
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
                    hint=f'it is built for this machine: target="{other}" runs code there, which is'
                    " no security boundary",
                ) from error
        raise


def _check_ref(known: registry.Registry, ref: str, target: str) -> None:
    """A build that is named by its ref is not used either when it was revoked."""
    for record in known.records(ref=ref, target=target):
        if record.revoked:
            raise RevokedError(
                f"build `{ref}` of `{record.name}` is {record.build.revocation}",
                hint=f"`template-builder list` shows what else there is of `{record.name}`",
            )
