"""Move channels: on the target first, then in the registry, so a failure keeps the old build."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

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
from builder.registry import Ref, history
from builder.registry.model import Build, Entry, Hold
from builder.registry.references import find_build, newest_usable
from builder.system import provenance
from builder.system.events import Reporter
from builder.targets.adapters import connect
from builder.workflow import read_registry

_UNCHECKED = "not checked against the cloud when it was adopted"


@dataclass(frozen=True, kw_only=True, slots=True)
class ChannelRequest:
    """A channel of a template to change, and why; `target` defaults to that of
    `Registry.target_of`."""

    name: str
    channel: str
    target: str | None = None
    reason: str | None = None

    def on(self, target: str, project: Project) -> record.Change:
        """Return the change on `target`, by the user of `project`."""
        by = provenance.actor(project.root)
        return record.Change(
            name=self.name, target=target, by=by, reason=self.reason, channel=self.channel
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Moved:
    """A channel that was moved. `before` is the ref that it pointed at, `passed_over` the skipped
    builds, `held` whether it is on hold; `note` is for the user."""

    change: record.Change
    before: str | None
    ref: str
    passed_over: tuple[str, ...] = ()
    held: bool = False
    note: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the move as plain values."""
        return {
            "name": self.change.name,
            "target": self.change.target,
            "channel": self.change.channel,
            "from": self.before,
            "to": self.ref,
            "passed_over": list(self.passed_over),
            "held": self.held,
            "note": self.note,
        }


def promote(
    project: Project, request: ChannelRequest, wanted: str | None, *, report: Reporter
) -> Moved:
    """Point the channel at the build `wanted`; None means the newest usable one.

    Raise the `LookupError`s of the registry, what the target raises, and `RevokedError`; then
    nothing was moved.
    """
    recorded, name = read_registry(project), request.name
    if wanted is None:
        chosen = newest_usable(recorded, name, recorded.target_of(name, request.target))
    else:
        chosen = find_build(recorded, name, wanted, target=request.target)
    return _move(project, request, chosen, "promote", report=report)


def rollback(
    project: Project,
    request: ChannelRequest,
    wanted: str | None,
    *,
    steps: int = 1,
    report: Reporter,
) -> Moved:
    """Point the channel at a build that it pointed at before: `wanted`, or the one `steps` back.
    Revoked builds are skipped and do not count.

    Raise `UnknownBuildError` if there is no such build, and what `promote` raises.
    """
    recorded, name, channel = read_registry(project), request.name, request.channel
    target = recorded.target_of(name, request.target)
    entry = recorded.entry(name, target)
    present = entry.channels.get(channel)
    earlier = [ref for ref in history.timeline(entry, channel)[:-1][::-1] if ref != present]
    if wanted is None:
        ref, passed_over = _steps_back(entry, earlier, steps, request, target)
        chosen = recorded.record(name, target, ref)
        return _move(project, request, chosen, "rollback", report=report, passed_over=passed_over)
    chosen = find_build(recorded, name, wanted, target=target)
    if chosen.ref not in earlier:
        raise UnknownBuildError(
            f"channel `{channel}` of `{name}` never pointed at `{chosen.ref}` on `{target}`",
            hint=f"`template-builder promote {name} {chosen.ref} --channel {channel}` points it"
            " there",
        )
    return _move(project, request, chosen, "rollback", report=report)


def _steps_back(
    entry: Entry, earlier: Sequence[str], steps: int, request: ChannelRequest, target: str
) -> tuple[str, tuple[str, ...]]:
    """Return the ref `steps` usable builds back, and the refs that were skipped on the way."""
    passed: list[str] = []
    usable: list[str] = []
    for ref in earlier:
        if ref not in entry.builds or entry.builds[ref].is_revoked:
            passed.append(ref)
        elif ref not in usable:
            usable.append(ref)
        if len(usable) == steps:
            return ref, tuple(passed)
    there = ", ".join(f"`{ref}`" for ref in usable) or "none"
    gone = f"; revoked or gone: {', '.join(f'`{ref}`' for ref in passed)}" if passed else ""
    raise UnknownBuildError(
        f"channel `{request.channel}` of `{request.name}` on `{target}` cannot go back"
        f" {counted(steps, 'build')}; usable builds that it pointed at before: {there}{gone}",
        hint=f"`template-builder show {request.name} --target {target}` shows its history;"
        " `promote` accepts any build",
    )


def unhold(project: Project, request: ChannelRequest) -> tuple[str, Hold | None]:
    """Let builds move the channel again; return the target and the hold that was lifted. Raise
    `UnknownChannelError` and the other `LookupError`s of the registry."""
    recorded, name, channel = read_registry(project), request.name, request.channel
    target = recorded.target_of(name, request.target)
    entry = recorded.entry(name, target)
    # A merge may leave a hold on a channel that one side removed.
    if channel not in entry.channels and channel not in entry.holds:
        raise UnknownChannelError(
            f"template `{name}` has no channel `{channel}` on target `{target}`",
            hint=did_you_mean(channel, entry.channels),
        )
    return target, record.unhold(project.registry, request.on(target, project))


def adopt(
    project: Project,
    request: ChannelRequest,
    ref: str,
    settings: TargetSettings,
    *,
    unchecked: bool,
    report: Reporter,
) -> Moved:
    """Record a template on E2B that was built elsewhere, and point the channel at it.

    `ref` is its ID, or `ID:BUILD_ID` for one build. E2B must have it, unless `unchecked`. Raise
    `BuildError` if E2B does not have it, `TargetUnavailableError` without a key, `SelectionError`
    for a target of kind `local`, and what `update` raises.
    """
    name, target = request.name, settings.name
    if not re.fullmatch(r"[a-z0-9_/-]+(:[A-Za-z0-9_.-]+)?", ref):
        raise SelectionError(
            f"{ref!r} is not the ID of a template",
            hint="expected an ID as in E2B's dashboard, or ID:BUILD_ID",
        )
    if not re.fullmatch(r"[a-z0-9_-]{1,128}", name):
        raise SelectionError(f"{name!r} is not a template's name: a-z, 0-9, - and _, at most 128")
    if not settings.has_account:
        raise SelectionError(
            f"target `{target}` is this machine: there is nothing to adopt",
            hint=f"`template-builder build {name} --target {target}` records it",
        )
    entry = read_registry(project).contents.entry(name, target)
    if unchecked:
        build = Build(template_id=Ref(ref).template_id, note=_UNCHECKED)
        note: str | None = f"not checked: {target} may not have it"
    else:
        build = _examined(project, settings, ref, report)
        bare = f"a bare ID follows the tag `default` there; {ref}:BUILD_ID pins one build"
        note = None if Ref(ref).build_id else bare
    build = replace(build, build_id=Ref(ref).build_id or None)
    change = request.on(target, project)
    record.adopt(project.registry, change, ref, build)
    return Moved(change=change, before=entry.channels.get(request.channel), ref=ref, note=note)


def _examined(project: Project, settings: TargetSettings, ref: str, report: Reporter) -> Build:
    """Ask the target for a template, and return its record. Raise what `adopt` raises."""
    try:
        inventory = connect(settings, project, report=report).inventory
    except TargetUnavailableError as error:
        raise TargetUnavailableError(
            f"{error.message}, so `{ref}` cannot be checked",
            hint=f"set `{settings.api_key_env}`, or record it without a check with --unchecked",
        ) from error
    assert inventory  # an account has one
    return Build(template_id=inventory.examine(ref), checked_at=history.now())


def _move(
    project: Project,
    request: ChannelRequest,
    chosen: registry.Record,
    action: Literal["promote", "rollback"],
    *,
    report: Reporter,
    passed_over: tuple[str, ...] = (),
) -> Moved:
    build, change = chosen.build, request.on(chosen.target, project)
    with contextlib.ExitStack() as stack:
        publish = None
        if chosen.build_id:  # a bare template ID was adopted: there are no tags to move
            settings = target_called(chosen.target, project.targets)
            publisher = connect(settings, project, report=report)
            stack.enter_context(publisher.claimed(chosen.name))
            publish = record.following(publisher, chosen.name, over=None)
        before = record.move(project.registry, change, chosen.ref, action=action, publish=publish)
    return Moved(
        change=change,
        before=before,
        ref=chosen.ref,
        passed_over=passed_over,
        held=action == "rollback",
        note=None if build.revoked is None else f"this build is to be {build.revocation}",
    )
