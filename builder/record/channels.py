"""Builds in, and channels from one build to another."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from builder import history, registry
from builder.errors import RegistryError, RevokedError, UnknownBuildError
from builder.record.fields import fields_of
from builder.record.revoking import check_contents, marks_of, settle
from builder.record.store import update
from builder.render import Rendered
from builder.verify import Verified

__all__ = ["adopt", "move", "put_back", "record", "repair"]

Publish = Callable[[Mapping[str, Any]], None]


def record(
    location: str | os.PathLike[str],
    verified: Verified,
    rendered: Rendered,
    *,
    by: str,
    source: Mapping[str, Any] | None = None,
    channel: str = registry.DEFAULT_CHANNEL,
) -> dict[str, Any]:
    """Add a verified build to the registry and point `channel` at it; returns what was recorded.

    `by` is who built it, `source` the state of the spec. Raises `RevokedError` when it contains
    what was revoked, `RegistryError` when the registry cannot be read, `StorageError` when it
    cannot be written; then it is as it was.
    """
    built = verified.built
    fields = fields_of(verified, rendered, source or {})

    def change(data: dict[str, Any]) -> None:
        check_contents(data, fields, built.name)
        entry = data["templates"].setdefault(built.name, {}).setdefault(built.target, {})
        builds = entry.setdefault("builds", {})
        builds[built.ref] = builds.get(built.ref, {}) | fields
        check_usable(built.name, built.ref, builds[built.ref])
        settle(builds[built.ref], marks_of(data, fields))
        history.append(entry, action="build", by=by, build=built.ref, channel=channel, to=built.ref)

    update(location, change)
    return fields


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
    publish: Publish | None = None,
) -> str | None:
    """Point a channel at a build that is recorded already; returns what it pointed at before.

    `action` is `promote` or `rollback`. `publish` is given the build's record and has the target
    follow, before the registry says so: when it fails, nothing was moved; when writing fails after
    it, it is called with the record of the build before, so that both agree again. Raises
    `UnknownBuildError`, `RevokedError`, what `publish` raises and what `update` raises.
    """
    moved_from: list[Mapping[str, Any] | None] = []

    def change(data: dict[str, Any]) -> str | None:
        entry = data["templates"].get(name, {}).get(target, {})
        fields = entry.get("builds", {}).get(ref)
        if fields is None:
            raise UnknownBuildError(f"`{name}` has no build `{ref}` on `{target}` any more")
        check_usable(name, ref, fields)
        before: str | None = entry.get("channels", {}).get(channel)
        if publish:
            moved_from[:] = [entry["builds"].get(before) if before else None]
            publish(fields)
        if before != ref:
            history.append(
                entry, action=action, by=by, build=ref, channel=channel, to=ref, reason=reason
            )
        return before

    try:
        return update(location, change)
    except BaseException:
        if publish and moved_from and moved_from[0]:
            with contextlib.suppress(Exception):
                publish(moved_from[0])
        raise


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
        builds[ref] = known | dict(fields) | {"origin": "adopted"}
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

    Raises what `update` raises.
    """

    def change(data: dict[str, Any]) -> None:
        entry = data["templates"].setdefault(name, {}).setdefault(target, {})
        builds = entry.setdefault("builds", {})
        builds.setdefault(ref, dict(fields))
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

    Events are put in the order of their times and each is kept once; a record that was changed is
    kept as it is now, and said to be; a channel goes back to where its history says it was moved,
    if that build may be used. Raises what `update` raises.
    """

    def change(data: dict[str, Any]) -> tuple[list[str], list[str]]:
        mended: list[str] = []
        for fault in list(history.faults(data["templates"])):
            entry = data["templates"][fault.name][fault.target]
            if told := _mend(entry, fault, by):
                mended.append(f"{fault}: {told}")
        return mended, [str(fault) for fault in history.faults(data["templates"])]

    return update(location, change)


def _revoked_by_history(entry: Mapping[str, Any], ref: str) -> str | None:
    """Why a build was revoked last, where nobody has restored it since."""
    told = [
        event
        for event in entry.get("history", [])
        if event.get("build") == ref and event.get("action") in ("revoke", "restore")
    ]
    revoked = bool(told) and told[-1]["action"] == "revoke"
    return str(told[-1].get("reason", "revoked")) if revoked else None


def _mend(entry: dict[str, Any], fault: history.Fault, by: str) -> str | None:
    builds, channels = entry.get("builds", {}), entry.setdefault("channels", {})
    ref = fault.subject
    if fault.kind == "chain":
        history.rechain(entry)
        return "put in the order of time"
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
        history.append(
            entry, action="repair", by=by, channel=ref, to=to, reason="did not fit to the history"
        )
        return f"now at `{to}`" if to else "removed"
    return None
