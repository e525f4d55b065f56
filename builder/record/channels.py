"""Record builds, and move channels from one build to another."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from builder import registry
from builder.errors import (
    BlockedError,
    RegistryError,
    RevokedError,
    UnknownBuildError,
)
from builder.record.change import Change
from builder.record.fields import build_of
from builder.record.publishing import Publish, update_published
from builder.record.revoking import check_contents, marks_of, settled
from builder.record.store import update
from builder.registry import chain, history
from builder.registry.model import Build, Contents, Entry, Event, Hold
from builder.render import Rendered
from builder.targets.protocol import OvertakenError
from builder.verify import Verified


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorded:
    """A recorded build, and what kept the channel from it: a hold, or a newer build (in words)."""

    build: Build
    hold: Hold | None = None
    overtaken: str | None = None


def record(
    location: str | os.PathLike[str],
    verified: Verified,
    rendered: Rendered,
    *,
    by: str,
    source: Mapping[str, Any] | None = None,
    channel: str = registry.DEFAULT_CHANNEL,
    release: bool = False,
    publish: Publish | None = None,
) -> Recorded:
    """Record a verified build and point `channel` at it, unless the channel is on hold or, as
    `publish` says, belongs to a newer build.

    A build that is already recorded keeps its record; if the channel points at it, nothing changes.
    `by` is who built it, `source` the state of the spec; `release` lifts a hold; for `publish`, see
    `move`. Raise `RevokedError` for revoked content, `RegistryError` if the registry cannot be
    read, `StorageError` if it cannot be written, and what `publish` raises; then neither the
    registry nor the target has changed.
    """
    built, new = verified.built, build_of(verified, rendered, source or {})
    ref, change = built.ref, Change(name=built.name, target=built.target, by=by, channel=channel)

    def recorded(contents: Contents, publishing: Publish) -> Recorded:
        check_contents(contents, new, built.name)
        entry = contents.new_entry(built.name, built.target)
        known = entry.builds.get(ref, Build())
        again = known.digest == built.digest and known.is_verified
        build = known if again else known.updated(new)
        check_usable(change, ref, build)
        entry.builds[ref] = settled(build, marks_of(contents, new))
        lifted = release and lift(entry, channel)
        there = entry.channels.get(channel) == ref
        hold = None if there else entry.holds.get(channel)
        moved, overtaken = None if hold else channel, None
        try:
            publishing(new, moved)
        except OvertakenError as error:
            moved, overtaken = None, str(error)
        if not again or lifted or (moved and not there):
            history.append(entry, "build", by, build=ref, channel=moved, to=ref, reason=overtaken)
        build = entry.builds[ref] if again else new
        return Recorded(build=build, hold=hold, overtaken=overtaken)

    return update_published(location, recorded, publish)


def lift(entry: Entry, channel: str) -> bool:
    """Lift the hold on a channel; return whether there was one."""
    return entry.holds.pop(channel, None) is not None


def unhold(location: str | os.PathLike[str], change: Change) -> Hold | None:
    """Let builds move the channel again, and return the hold that was lifted.

    Raise what `update` raises.
    """
    channel = change.channel

    def lifted(contents: Contents) -> Hold | None:
        entry = contents.entry(change.name, change.target)
        hold = entry.holds.pop(channel, None)
        if hold:
            to, reason = entry.channels.get(channel), change.reason
            history.append(entry, "unhold", change.by, channel=channel, to=to, reason=reason)
        return hold

    return update(location, lifted)


def move(
    location: str | os.PathLike[str],
    change: Change,
    ref: str,
    *,
    action: Literal["promote", "rollback"],
    release: bool = True,
    publish: Publish | None = None,
) -> str | None:
    """Point the channel at a recorded build, and return the ref that it pointed at before.

    A rollback puts the channel on hold; a promotion lifts the hold, or fails without `release`.
    `publish` moves the target first: if it fails, nothing moves; if the registry cannot be written
    afterwards, the target is moved back. Raise `UnknownBuildError`, `RevokedError`, `BlockedError`,
    and what `publish` and `update` raise.
    """
    channel, by, reason = change.channel, change.by, change.reason

    def moved(contents: Contents, publishing: Publish) -> str | None:
        entry = contents.entry(change.name, change.target)
        build = entry.builds.get(ref)
        if build is None:
            raise UnknownBuildError(
                f"`{change.name}` no longer has build `{ref}` on `{change.target}`"
            )
        check_usable(change, ref, build)
        before = entry.channels.get(channel)
        if not release and before != ref:
            check_not_held(entry, change)
        publishing(build, channel)
        lifted = release and lift(entry, channel)
        if action == "rollback":
            entry.holds[channel] = Hold(at=history.now(), by=by, reason=reason or None)
        if before != ref or lifted:
            history.append(entry, action, by, build=ref, channel=channel, to=ref, reason=reason)
        return before

    return update_published(location, moved, publish)


def check_not_held(entry: Entry, change: Change) -> None:
    """Raise `BlockedError` if the channel is on hold."""
    if hold := entry.holds.get(change.channel):
        raise BlockedError(
            f"channel `{change.channel}` of `{change.name}` is {hold}",
            hint=f"`template-builder promote` moves it, `template-builder unhold {change.name}"
            f" --channel {change.channel} --target {change.target}` lets builds move it again",
        )


def check_usable(change: Change, ref: str, build: Build) -> None:
    """Raise `RevokedError`, or `UnknownBuildError` for a build that was never verified."""
    name, target = change.name, change.target
    if build.is_revoked:
        raise RevokedError(
            f"build `{ref}` of `{name}` is {build.revocation}",
            hint=f"`template-builder restore {name} {ref} --target {target}` restores it, if it is"
            " good again",
        )
    if not (build.is_adopted or build.is_verified):
        raise UnknownBuildError(
            f"build `{ref}` of `{name}` was never verified: no channel may point at it",
            hint=f"`template-builder build {name} --target {target}` makes and verifies one",
        )


def adopt(location: str | os.PathLike[str], change: Change, ref: str, build: Build) -> None:
    """Record a template that was built elsewhere, and point the channel at it.

    Raise `RevokedError` if it is already recorded and revoked, and what `update` raises.
    """
    channel = change.channel

    def adopted(contents: Contents) -> None:
        entry = contents.new_entry(change.name, change.target)
        known, new = entry.builds.get(ref), replace(build, origin="adopted")
        if known and not known.is_adopted:
            raise RegistryError(
                f"`{ref}` is a build of `{change.name}` made by template-builder",
                hint=f"`template-builder promote {change.name} {ref}` points a channel at it",
            )
        if known:
            check_usable(change, ref, known)
            new = replace(known, note=None).updated(new)
        if entry.channels.get(channel) != ref:
            check_not_held(entry, change)
        entry.builds[ref] = new
        history.append(
            entry, "adopt", change.by, build=ref, channel=channel, to=ref, reason=change.reason
        )

    update(location, adopted)


def put_back(
    location: str | os.PathLike[str],
    change: Change,
    ref: str,
    build: Build,
    *,
    channels: Sequence[str],
) -> None:
    """Record a build that the target has and the registry lacks, and point `channels` at it.

    It is revoked if its history says so. Raise what `update` raises.
    """

    def recorded(contents: Contents) -> None:
        entry, by = contents.new_entry(change.name, change.target), change.by
        known = entry.builds.get(ref)
        if known is None:
            known = replace(build, revoked=_revoked_by_history(entry, ref) or build.revoked)
        entry.builds[ref] = settled(known, marks_of(contents, known))
        reason = f"{history.PUT_BACK} {change.target}"
        if not channels:
            history.append(entry, "repair", by, build=ref, reason=reason)
        for channel in channels:
            history.append(entry, "repair", by, build=ref, channel=channel, to=ref, reason=reason)

    update(location, recorded)


def repair(location: str | os.PathLike[str], *, by: str) -> tuple[list[str], list[str]]:
    """Make the registry match its history; return what was repaired and what was not, in words.

    Events are sorted by their chain, without duplicates. A changed record is kept as it is, with an
    event that says so. A channel returns to where its history moved it, if that build is usable;
    after a merge it stays on the side that it points at. Raise what `update` raises.
    """

    def change(contents: Contents) -> tuple[list[str], list[str]]:
        templates = contents.templates
        mended: list[str] = []
        for fault in list(history.faults(templates)):
            if fault.kind == "chain":
                entry = templates[fault.name][fault.target]
                _keep_merged_channels(entry, by)
                history.rechain(entry)
                mended.append(f"{fault}: sorted by its chain")
        # After the events are sorted, since a channel's last event may have changed.
        for fault in list(history.faults(templates)):
            entry = templates[fault.name][fault.target]
            if outcome := _mend(entry, fault, by):
                mended.append(f"{fault}: {outcome}")
        return mended, [str(fault) for fault in history.faults(templates)]

    return update(location, change)


def _keep_merged_channels(entry: Entry, by: str) -> None:
    """Add an event for each channel that points where one side of a merge moved it."""
    events = list(entry.history)
    last = {event.channel: event.to for event in chain.in_order(events)}
    for channel, ref in list(entry.channels.items()):
        from_merge = last.get(channel) != ref and ref in chain.sides(events, channel)
        if from_merge and ref in entry.builds and not entry.builds[ref].is_revoked:
            history.append(entry, "repair", by, channel=channel, to=ref, reason="kept as merged")


def _events_of(entry: Entry, ref: str, *actions: str) -> list[Event]:
    return [event for event in entry.history if event.build == ref and event.action in actions]


def _revoked_by_history(entry: Entry, ref: str) -> str | None:
    """Return why a build was revoked, unless it has been restored since."""
    *_, last = [None, *_events_of(entry, ref, "revoke", "restore")]
    return (last.reason or "revoked") if last and last.action == "revoke" else None


def _removed_by_history(entry: Entry, ref: str) -> bool:
    """Return whether a build was removed, and neither recorded again nor revoked since."""
    *_, last = [None, *_events_of(entry, ref, "remove", "build", "adopt")]
    removed = last is not None and last.action == "remove"
    return removed and not _revoked_by_history(entry, ref)


def _mend(entry: Entry, fault: history.Fault, by: str) -> str | None:
    builds, ref = entry.builds, fault.subject
    if fault.kind == "record":
        if not builds[ref].revoked and (why := _revoked_by_history(entry, ref)):
            builds[ref] = replace(builds[ref], revoked=why)
        history.append(entry, "repair", by, build=ref, reason="kept as it was found")
        return "kept as it is now"
    if fault.kind == "unknown":
        if not (builds[ref].is_adopted or builds[ref].is_verified):
            return None
        history.append(entry, "repair", by, build=ref, reason="kept as it was found")
        return "added to the history"
    if fault.kind == "channel":
        before = history.timeline(replace(entry, channels={}), ref)
        usable = [r for r in before if r in builds and not builds[r].is_revoked]
        known = any(event.channel == ref for event in entry.history)
        # A channel from before the history began stays as it is.
        to = (usable[-1] if usable else None) if known else entry.channels.get(ref)
        if to is not None and to not in builds:
            to = None
        if to is None:
            lift(entry, ref)
        history.append(entry, "repair", by, channel=ref, to=to, reason="did not match the history")
        return f"now at `{to}`" if to else "removed"
    if fault.kind == "lost" and _removed_by_history(entry, ref):
        # Removed on one side of a merge, while the other side used it.
        history.append(entry, "remove", by, build=ref, reason="removed before a merge")
        return "removed, as its history says"
    return None
