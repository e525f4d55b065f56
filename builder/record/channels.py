"""Builds in, and channels from one build to another."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from builder import registry
from builder.errors import (
    BlockedError,
    RegistryError,
    RevokedError,
    UnknownBuildError,
)
from builder.record.fields import fields_of
from builder.record.publishing import Publish, update_published
from builder.record.revoking import check_contents, marks_of, settle
from builder.record.store import update
from builder.registry import chain, history
from builder.registry.holds import Hold, hold_of
from builder.render import Rendered
from builder.targets.protocol import OvertakenError
from builder.verify import Verified

__all__ = [
    "Recorded",
    "adopt",
    "move",
    "put_back",
    "record",
    "repair",
    "unhold",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorded:
    """A build's record, and the hold that has kept the channel from following to it, or the newer
    build that has, in words."""

    fields: dict[str, Any]
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
    """Add a verified build to the registry and point `channel` at it, unless that is on hold, or
    belongs to a newer build, as `publish` tells.

    Of a build that is recorded already the record stands: where the channel points at it, too, not
    a byte changes.
    `by` is who built it, `source` the state of the spec. `release` lifts a hold. `publish` is that
    of `move`. Raises `RevokedError` when it contains what was revoked, `RegistryError` when the
    registry cannot be read, `StorageError` when it cannot be written, and what `publish` raises;
    then the registry and the target are as they were.
    """
    built = verified.built
    fields = fields_of(verified, rendered, source or {})

    def change(data: dict[str, Any], publishing: Publish) -> Recorded:
        check_contents(data, fields, built.name)
        entry = data["templates"].setdefault(built.name, {}).setdefault(built.target, {})
        builds = entry.setdefault("builds", {})
        known = builds.get(built.ref, {})
        again = known.get("digest") == built.digest and bool(known.get("verified"))
        found = known if again else known | fields
        builds[built.ref] = found
        check_usable(built.name, built.ref, found)
        settle(found, marks_of(data, fields))
        lifted = release and lift(entry, channel)
        there = entry.get("channels", {}).get(channel) == built.ref
        hold = None if there else hold_of(entry, channel)
        moved = None if hold else channel
        overtaken = None
        try:
            publishing(fields, moved)
        except OvertakenError as error:
            moved, overtaken = None, str(error)
        if not again or lifted or (moved and not there):
            history.append(
                entry,
                action="build",
                by=by,
                build=built.ref,
                channel=moved,
                to=built.ref,
                reason=overtaken,
            )
        return Recorded(fields=dict(found) if again else fields, hold=hold, overtaken=overtaken)

    return update_published(location, change, publish)


def lift(entry: dict[str, Any], channel: str) -> bool:
    """Lift the hold on a channel, if there is one."""
    holds = entry.get("holds", {})
    lifted = holds.pop(channel, None) is not None
    if lifted and not holds:
        del entry["holds"]
    return lifted


def unhold(
    location: str | os.PathLike[str],
    *,
    name: str,
    target: str,
    channel: str,
    by: str,
    reason: str | None = None,
) -> Hold | None:
    """Let builds move a channel again, which stays where it is; returns the hold that was lifted.

    Raises what `update` raises.
    """

    def change(data: dict[str, Any]) -> Hold | None:
        entry = data["templates"].get(name, {}).get(target, {})
        hold = hold_of(entry, channel)
        if hold:
            lift(entry, channel)
            to = entry.get("channels", {}).get(channel)
            history.append(entry, action="unhold", by=by, channel=channel, to=to, reason=reason)
        return hold

    return update(location, change)


def move(
    location: str | os.PathLike[str],
    *,
    name: str,
    target: str,
    channel: str,
    ref: str,
    action: str,
    by: str,
    reason: str | None = None,
    release: bool = True,
    publish: Publish | None = None,
) -> str | None:
    """Point a channel at a build that is recorded already; returns what it pointed at before.

    `action` is `promote` or `rollback`: a rollback puts the channel on hold, a promotion lifts
    that, or, without `release`, is refused. `publish` has the target follow before the registry
    says so: when it fails, nothing was moved; when writing fails after it, what it did is taken
    back. Raises `UnknownBuildError`, `RevokedError`, `BlockedError`, what `publish` raises and what
    `update` raises.
    """

    def change(data: dict[str, Any], publishing: Publish) -> str | None:
        entry = data["templates"].get(name, {}).get(target, {})
        fields = entry.get("builds", {}).get(ref)
        if fields is None:
            raise UnknownBuildError(f"`{name}` has no build `{ref}` on `{target}` any more")
        check_usable(name, ref, fields)
        before: str | None = entry.get("channels", {}).get(channel)
        if not release and before != ref:
            check_not_held(entry, name, channel)
        publishing(fields, channel)
        lifted = release and lift(entry, channel)
        if action == "rollback":
            hold = {"at": history.now(), "by": by} | ({"reason": reason} if reason else {})
            entry.setdefault("holds", {})[channel] = hold
        if before != ref or lifted:
            history.append(
                entry, action=action, by=by, build=ref, channel=channel, to=ref, reason=reason
            )
        return before

    return update_published(location, change, publish)


def check_not_held(entry: Mapping[str, Any], name: str, channel: str) -> None:
    """Raises `BlockedError` when a channel is on hold."""
    if hold := hold_of(entry, channel):
        raise BlockedError(
            f"channel `{channel}` of `{name}` is {hold}",
            hint=f"`template-builder promote` moves it, `template-builder unhold {name}` lets"
            " builds move it again",
        )


def check_usable(name: str, ref: str, fields: Mapping[str, Any]) -> None:
    """Raises `RevokedError`, or `UnknownBuildError` for a build that nobody has verified."""
    if registry.revoked_because(fields):
        raise RevokedError(
            f"build `{ref}` of `{name}` is {registry.revocation(fields)}",
            hint=f"`template-builder restore {name} {ref}` puts it back, if it is good again",
        )
    if fields.get("origin", "built") != "adopted" and not fields.get("verified"):
        raise UnknownBuildError(
            f"build `{ref}` of `{name}` was never verified: no channel may point at it",
            hint=f"`template-builder build {name}` makes and verifies one",
        )


def adopt(
    location: str | os.PathLike[str],
    *,
    name: str,
    target: str,
    ref: str,
    fields: Mapping[str, Any],
    channel: str,
    by: str,
    reason: str | None = None,
) -> None:
    """Record a template that was not built from a spec of ours, and point `channel` at it.

    Raises `RevokedError` when it was recorded before, and revoked, and what `update` raises.
    """

    def change(data: dict[str, Any]) -> None:
        entry = data["templates"].setdefault(name, {}).setdefault(target, {})
        builds = entry.setdefault("builds", {})
        known = builds.get(ref, {})
        if known.get("origin", "adopted") != "adopted":
            raise RegistryError(
                f"`{ref}` is a build of `{name}` that was made here",
                hint=f"`template-builder promote {name} {ref}` points a channel at it",
            )
        check_usable(name, ref, {**known, "origin": "adopted"})
        if entry.get("channels", {}).get(channel) != ref:
            check_not_held(entry, name, channel)
        rest = {key: value for key, value in known.items() if key != "note"}
        builds[ref] = rest | dict(fields) | {"origin": "adopted"}
        history.append(
            entry, action="adopt", by=by, build=ref, channel=channel, to=ref, reason=reason
        )

    update(location, change)


def put_back(
    location: str | os.PathLike[str],
    *,
    name: str,
    target: str,
    ref: str,
    fields: Mapping[str, Any],
    channels: Sequence[str],
    by: str,
) -> None:
    """Record a build again that the registry has lost, and point `channels` at it.

    What its history says was revoked is revoked still. Raises what `update` raises.
    """

    def change(data: dict[str, Any]) -> None:
        entry = data["templates"].setdefault(name, {}).setdefault(target, {})
        builds = entry.setdefault("builds", {})
        if ref not in builds:
            builds[ref] = dict(fields)
            if why := _revoked_by_history(entry, ref):
                builds[ref]["revoked"] = why
        settle(builds[ref], marks_of(data, builds[ref]))
        reason = f"put back from {target}"
        history.append(entry, action="repair", by=by, build=ref, reason=reason)
        for channel in channels:
            history.append(
                entry, action="repair", by=by, build=ref, channel=channel, to=ref, reason=reason
            )

    update(location, change)


def repair(location: str | os.PathLike[str], *, by: str) -> tuple[list[str], list[str]]:
    """Make the registry fit to its history again; what was mended, and what could not be, in words.

    Events are put in the order of their chain and each is kept once; a record that was changed is
    kept as it is now, and said to be; a channel goes back to where its history says it was moved,
    if that build may be used. Of two sides of a merge the channel keeps the one that it points at.
    Raises what `update` raises.
    """

    def change(data: dict[str, Any]) -> tuple[list[str], list[str]]:
        mended: list[str] = []
        for fault in list(history.faults(data["templates"])):
            if fault.kind == "chain":
                entry = data["templates"][fault.name][fault.target]
                _keep_merged_channels(entry, by)
                history.rechain(entry)
                mended.append(f"{fault}: put in the order of its chain")
        # Only now: which event is the last one of a channel may be another.
        for fault in list(history.faults(data["templates"])):
            entry = data["templates"][fault.name][fault.target]
            if told := _mend(entry, fault, by):
                mended.append(f"{fault}: {told}")
        return mended, [str(fault) for fault in history.faults(data["templates"])]

    return update(location, change)


def _keep_merged_channels(entry: dict[str, Any], by: str) -> None:
    """Tell the history where each channel points that is where one side of a merge moved it."""
    builds, events = entry.get("builds", {}), list(entry.get("history", []))
    last = {event.get("channel"): event.get("to") for event in chain.in_order(events)}
    for channel, ref in list(entry.get("channels", {}).items()):
        merged = last.get(channel) != ref and ref in chain.sides(events, channel)
        if merged and ref in builds and not registry.revoked_because(builds[ref]):
            history.append(
                entry, action="repair", by=by, channel=channel, to=ref, reason="kept as merged"
            )


def _revoked_by_history(entry: Mapping[str, Any], ref: str) -> str | None:
    """Why a build was revoked last, where nobody has restored it since."""
    told = [
        event
        for event in entry.get("history", [])
        if event.get("build") == ref and event.get("action") in ("revoke", "restore")
    ]
    revoked = bool(told) and told[-1]["action"] == "revoke"
    return str(told[-1].get("reason", "revoked")) if revoked else None


def _removed_by_history(entry: Mapping[str, Any], ref: str) -> bool:
    """Whether a build was removed, and neither recorded again since nor revoked."""
    events = entry.get("history", [])
    said = [event for event in events if event.get("build") == ref]
    removals = [number for number, event in enumerate(said) if event.get("action") == "remove"]
    if not removals or _revoked_by_history(entry, ref):
        return False
    return not any(event.get("action") in ("build", "adopt") for event in said[removals[-1] :])


def _mend(entry: dict[str, Any], fault: history.Fault, by: str) -> str | None:
    builds, channels = entry.get("builds", {}), entry.setdefault("channels", {})
    ref = fault.subject
    if fault.kind == "record":
        if why := _revoked_by_history(entry, ref):
            builds[ref].setdefault("revoked", why)
        history.append(entry, action="repair", by=by, build=ref, reason="kept as it was found")
        return "kept as it is now"
    if fault.kind == "unknown":
        fields = builds[ref]
        if fields.get("origin", "built") != "adopted" and not fields.get("verified"):
            return None
        history.append(entry, action="repair", by=by, build=ref, reason="kept as it was found")
        return "taken into the history"
    if fault.kind == "channel":
        usable = [r for r in history.timeline({**entry, "channels": {}}, ref) if r in builds]
        usable = [r for r in usable if not registry.revoked_because(builds[r])]
        known = any(event.get("channel") == ref for event in entry.get("history", []))
        # A channel from before there was a history is taken as it is.
        to = (usable[-1] if usable else None) if known else channels.get(ref)
        if to is not None and to not in builds:
            to = None
        if to is None:
            lift(entry, ref)
        history.append(
            entry, action="repair", by=by, channel=ref, to=to, reason="did not fit to the history"
        )
        return f"now at `{to}`" if to else "removed"
    if fault.kind == "lost" and _removed_by_history(entry, ref):
        # On one side of a merge; the other has said something of it still.
        history.append(entry, action="remove", by=by, build=ref, reason="removed before a merge")
        return "removed, as its history says"
    return None
