"""Moving channels: on the target first, then in the registry, so that the old build works until the
new one does."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, replace
from typing import Any

from builder import record, registry
from builder.errors import (
    SelectionError,
    TargetUnavailableError,
    UnknownBuildError,
    UnknownChannelError,
    counted,
    did_you_mean,
)
from builder.project import Project, TargetSettings, target_called
from builder.registry import history
from builder.registry.model import Build, Hold
from builder.registry.references import find_build, newest_usable
from builder.system import provenance
from builder.system.events import Reporter
from builder.targets.adapters import connect
from builder.workflow import read_registry


@dataclass(frozen=True, kw_only=True, slots=True)
class Moved:
    """A channel that was moved; `before` is what it pointed at, `passed_over` what was left out on
    the way back, since it is revoked, `held` whether it is on hold now, `note` what a person should
    know."""

    name: str
    target: str
    channel: str
    before: str | None
    ref: str
    passed_over: tuple[str, ...] = ()
    held: bool = False
    note: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The move as plain values."""
        return {
            "name": self.name,
            "target": self.target,
            "channel": self.channel,
            "from": self.before,
            "to": self.ref,
            "passed_over": list(self.passed_over),
            "held": self.held,
            "note": self.note,
        }


def promote(
    project: Project,
    name: str,
    wanted: str | None,
    *,
    channel: str,
    target: str | None,
    reason: str | None,
    report: Reporter,
) -> Moved:
    """Point `channel` at the build that `wanted` means; None is the newest that may be used.

    Raises the `LookupError`s of the registry, what the target raises, and `RevokedError`; then
    nothing was moved.
    """
    found = read_registry(project)
    if wanted is None:
        chosen = newest_usable(found, name, found.target_of(name, target))
    else:
        chosen = find_build(found, name, wanted, target=target)
    return _move(project, chosen, "promote", channel=channel, reason=reason, report=report)


def rollback(
    project: Project,
    name: str,
    wanted: str | None,
    *,
    steps: int,
    channel: str,
    target: str | None,
    reason: str | None,
    report: Reporter,
) -> Moved:
    """Point `channel` at a build that it pointed at before: `steps` back, or the one that `wanted`
    means. Revoked ones are passed over, and do not count.

    Raises `UnknownBuildError` where there is none, and what `promote` raises.
    """
    found = read_registry(project)
    target = found.target_of(name, target)
    entry = found.entry(name, target)
    present = entry.channels.get(channel)
    earlier = [ref for ref in history.timeline(entry, channel)[:-1][::-1] if ref != present]
    builds = entry.builds
    if wanted is not None:
        chosen = find_build(found, name, wanted, target=target)
        if chosen.ref not in earlier:
            raise UnknownBuildError(
                f"channel `{channel}` of `{name}` never pointed at `{chosen.ref}` on `{target}`",
                hint=f"`template-builder promote {name} {chosen.ref} --channel {channel}` has it"
                " point there",
            )
        return _move(project, chosen, "rollback", channel=channel, reason=reason, report=report)
    passed: list[str] = []
    usable: list[str] = []
    for ref in earlier:
        if ref not in builds or builds[ref].is_revoked:
            passed.append(ref)
        elif ref not in usable:
            usable.append(ref)
        if len(usable) == steps:
            break
    if len(usable) < steps:
        there = ", ".join(f"`{ref}`" for ref in usable) or "none"
        raise UnknownBuildError(
            f"channel `{channel}` of `{name}` on `{target}` cannot go back"
            f" {counted(steps, 'build')}: of those that it pointed at before, those that may be"
            f" used: {there}"
            + (f"; revoked or gone: {', '.join(f'`{ref}`' for ref in passed)}" if passed else ""),
            hint=f"`template-builder show {name} --target {target}` tells its history; `promote`"
            " takes any build",
        )
    chosen = registry.Record(
        name=name, target=target, ref=usable[-1], fields=builds[usable[-1]].to_json()
    )
    return _move(
        project,
        chosen,
        "rollback",
        channel=channel,
        reason=reason,
        report=report,
        passed_over=tuple(passed),
    )


def unhold(
    project: Project, name: str, *, channel: str, target: str | None, reason: str | None
) -> tuple[str, Hold | None]:
    """Let builds move `channel` again, which stays where it is; the target, and the hold that was
    lifted. Raises `UnknownChannelError` and the other `LookupError`s of the registry."""
    found = read_registry(project)
    target = found.target_of(name, target)
    entry = found.entry(name, target)
    # A merge may leave a hold on a channel that one side has removed.
    if channel not in entry.channels and channel not in entry.holds:
        raise UnknownChannelError(
            f"template `{name}` has no channel `{channel}` on target `{target}`",
            hint=did_you_mean(channel, entry.channels),
        )
    hold = record.unhold(
        project.registry,
        name=name,
        target=target,
        channel=channel,
        by=provenance.actor(project.root),
        reason=reason,
    )
    return target, hold


def adopt(
    project: Project,
    name: str,
    ref: str,
    settings: TargetSettings,
    *,
    channel: str,
    unchecked: bool,
    reason: str | None,
    report: Reporter,
) -> Moved:
    """Record a template of E2B's that was not built here, and point `channel` at it.

    `ref` is its ID, with `:` and a build's ID for one build of it. It is looked for there, unless
    it is to be recorded `unchecked`. Raises `BuildError` when it is not there,
    `TargetUnavailableError` without a key, `SelectionError` for a target that is this machine, and
    what `update` raises.
    """
    target = settings.name
    if not re.fullmatch(r"[a-z0-9_/-]+(:[A-Za-z0-9_.-]+)?", ref):
        raise SelectionError(
            f"{ref!r} is not the ID of a template",
            hint="expected an ID as E2B's dashboard shows it, with `:` and a build's ID or without",
        )
    if not re.fullmatch(r"[a-z0-9_-]{1,128}", name):
        raise SelectionError(f"{name!r} is not a template's name: a-z, 0-9, - and _, at most 128")
    if not settings.has_account:
        raise SelectionError(
            f"target `{target}` is this machine: what it has was built here",
            hint=f"`template-builder build {name} --target {target}` records it",
        )
    before = read_registry(project).contents.entry(name, target).channels
    template_id, _, build_id = ref.partition(":")
    build = Build(template_id=template_id, origin="adopted", build_id=build_id or None)
    note = None
    if unchecked:
        note = f"not checked: whether {target} has it is not known"
        build = replace(build, note="not checked against the cloud when it was adopted")
    else:
        try:
            adapter = connect(settings, project, report=report)
        except TargetUnavailableError as error:
            raise TargetUnavailableError(
                f"{error.message}, so `{ref}` cannot be looked for",
                hint=f"set `{settings.api_key_env}`, or record it as it is with --unchecked",
            ) from error
        assert adapter.inventory  # an account has one
        found_id = adapter.inventory.examine(ref)
        build = replace(build, template_id=found_id, checked_at=history.now())
        if not build_id:
            note = f"a bare ID follows the tag `default` there; {ref}:BUILD_ID pins one build"
    record.adopt(
        project.registry,
        name=name,
        target=target,
        ref=ref,
        build=build,
        channel=channel,
        by=provenance.actor(project.root),
        reason=reason,
    )
    return Moved(
        name=name, target=target, channel=channel, before=before.get(channel), ref=ref, note=note
    )


def _move(
    project: Project,
    chosen: registry.Record,
    action: str,
    *,
    channel: str,
    reason: str | None,
    report: Reporter,
    passed_over: tuple[str, ...] = (),
) -> Moved:
    build = chosen.build
    with contextlib.ExitStack() as stack:
        publish = None
        if chosen.build_id:  # what was adopted by its bare ID has nothing that could be moved
            settings = target_called(chosen.target, project.targets)
            publisher = connect(settings, project, report=report)
            stack.enter_context(publisher.claimed(chosen.name))
            publish = record.following(publisher, chosen.name, over=None)
        before = record.move(
            project.registry,
            name=chosen.name,
            target=chosen.target,
            channel=channel,
            ref=chosen.ref,
            action=action,
            by=provenance.actor(project.root),
            reason=reason,
            publish=publish,
        )
    return Moved(
        name=chosen.name,
        target=chosen.target,
        channel=channel,
        before=before,
        ref=chosen.ref,
        passed_over=passed_over,
        held=action == "rollback",
        note=None if build.revoked is None else f"this build is to be {build.revocation}",
    )
