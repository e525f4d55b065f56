"""The history of a template on one target, so that every change is known, and none goes unseen.

Each event carries the SHA-256 of itself and of the event before it; each record carries that of its
own content, which the event that made it repeats. What was edited by hand, lost, or merged from two
branches does not fit then. Pure: it reads and changes plain values, and writes no file.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from builder.registry import chain
from builder.registry.chain import checksum

__all__ = [
    "Fault",
    "append",
    "build_ids",
    "checksum",
    "faults",
    "newest_first",
    "now",
    "overtaken",
    "overtaken_because",
    "rechain",
    "timeline",
]

_RECORDING = ("adopt", "build")


def now() -> str:
    """The time in UTC, as it is written everywhere: `2026-11-23T07:49:55Z`."""
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def append(
    entry: dict[str, Any],
    *,
    action: str,
    by: str,
    build: str | None = None,
    channel: str | None = None,
    to: str | None = None,
    reason: str | None = None,
) -> None:
    """Add an event to the history of `entry` (a template's part of the registry for one target).

    `build` is whose record the event made, changed or removed: its checksum is made anew. With
    `channel`, that is pointed at `to`, or removed where `to` is None.
    """
    event: dict[str, Any] = {"action": action, "at": now(), "by": by}
    if reason:
        event["reason"] = reason
    if build is not None:
        event["build"] = build
        if fields := entry["builds"].get(build):
            event["record"] = fields["checksum"] = checksum(fields)
    if channel is not None:
        channels = entry.setdefault("channels", {})
        event |= {"channel": channel, "from": channels.pop(channel, None), "to": to}
        if to is not None:
            channels[channel] = to
    events: list[dict[str, Any]] = entry.setdefault("history", [])
    before = str(events[-1].get("chain", "")) if events else ""
    event["chain"] = checksum(event, without="chain", after=before)
    events.append(event)


def rechain(entry: dict[str, Any]) -> None:
    """Put the events of `entry` in the order of their chain, each once, and chain them anew."""
    events = chain.in_order(entry.get("history", []))
    before = ""
    for event in events:
        event["chain"] = before = checksum(event, without="chain", after=before)
    entry["history"] = events


def build_ids(entry: Mapping[str, Any]) -> set[str]:
    """The IDs of all builds that are recorded on a target, or were."""
    refs = (str(event.get("build", "")) for event in entry.get("history", []))
    recorded = (str(fields.get("build_id", "")) for fields in entry.get("builds", {}).values())
    return {*recorded, *(ref.partition(":")[2] for ref in refs)} - {""}


def overtaken(entry: Mapping[str, Any], ref: str, channel: str) -> bool:
    """Whether `channel` is on a build that was begun after `ref`, which did not get it therefore.

    That is said by the reason why it was recorded without a channel.
    """
    present, reason = entry.get("channels", {}).get(channel), overtaken_because(entry, ref)
    order = newest_first(entry)
    if present not in order or ref not in order or reason is None:
        return False
    return present.partition(":")[2] in reason or order.index(present) < order.index(ref)


def overtaken_because(entry: Mapping[str, Any], ref: str) -> str | None:
    """Why a build got no channel when it was recorded, where a newer one had it."""
    for event in reversed(entry.get("history", [])):
        if (event.get("action"), event.get("build")) == ("build", ref):
            return None if "channel" in event else event.get("reason")
    return None


def timeline(entry: Mapping[str, Any], channel: str) -> list[str]:
    """The builds that `channel` has pointed at, oldest first, the present one last.

    What a rollback has gone back over is not among them: a second one goes further back.
    """
    steps: list[str] = []
    for event in entry.get("history", []):
        if event.get("channel") != channel:
            continue
        to, before = event.get("to"), event.get("from")
        if not steps and isinstance(before, str):
            steps.append(before)  # recorded before there was a history
        if to is None:
            continue
        if event.get("action") == "rollback" and to in steps:
            del steps[len(steps) - steps[::-1].index(to) :]
        elif not steps or steps[-1] != to:
            steps.append(to)
    present = entry.get("channels", {}).get(channel)
    if isinstance(present, str) and (not steps or steps[-1] != present):
        steps.append(present)
    return steps


def newest_first(entry: Mapping[str, Any]) -> list[str]:
    """The refs of all builds, the one recorded last first. What history does not know is oldest.

    The order is that of the history alone: the clocks of the machines that build may differ.
    """
    builds: Mapping[str, Any] = entry.get("builds", {})
    recorded: dict[str, int] = {}
    for number, event in enumerate(entry.get("history", [])):
        ref = event.get("build")
        if event.get("action") in _RECORDING:
            recorded[ref] = number
        else:  # whatever is said of a build says that it was there
            recorded.setdefault(ref, number)
    return sorted(builds, key=lambda ref: (recorded.get(ref, -1), ref), reverse=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """Something in the registry that this program did not write: `subject` is a build's ref, a
    channel or the number of an event, as `kind` says."""

    name: str
    target: str
    kind: str
    subject: str
    text: str

    def __str__(self) -> str:
        return f"`{self.name}` on `{self.target}`: {self.text}"


def faults(templates: Mapping[str, Any]) -> Iterator[Fault]:
    """Every place where the registry does not fit to its own history."""
    for name, targets in sorted(templates.items()):
        for target, entry in sorted(targets.items()):
            for kind, subject, text in _faults(entry):
                yield Fault(name=name, target=target, kind=kind, subject=subject, text=text)


def _faults(entry: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    builds: Mapping[str, Any] = entry.get("builds", {})
    channels: Mapping[str, Any] = entry.get("channels", {})
    events: list[Mapping[str, Any]] = entry.get("history", [])
    pointed: dict[str, Mapping[str, Any]] = {}
    recorded: dict[str, Mapping[str, Any]] = {}
    before = ""
    for number, event in enumerate(events, 1):
        if event.get("chain") != checksum(event, without="chain", after=before):
            text = f"event {number} of its history ({_told(event)}) does not follow from the one"
            yield "chain", str(number), f"{text} before it: edited, lost, or merged from two sides"
        before = str(event.get("chain", ""))
        if isinstance(event.get("channel"), str):
            pointed[event["channel"]] = event
        if isinstance(event.get("build"), str):
            recorded[event["build"]] = event
    yield from _records(builds, recorded)
    for channel in sorted({*channels, *pointed}):
        now_at = channels.get(channel)
        event = pointed.get(channel, {})
        if now_at is not None and now_at not in builds:
            yield "channel", channel, f"channel `{channel}` points at `{now_at}`, which is no build"
        elif now_at != event.get("to"):
            said = f"its history says {_quoted(event.get('to'))}"
            said += f" ({_told(event)})" if event else ""
            yield "channel", channel, f"channel `{channel}` points at {_quoted(now_at)}; {said}"


def _records(
    builds: Mapping[str, Any], recorded: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[str, str, str]]:
    for ref in sorted({*builds, *recorded}):
        fields, event = builds.get(ref), recorded.get(ref)
        if fields is None:
            if event and event.get("action") == "remove":
                continue
            yield "lost", ref, f"the record of build `{ref}` is gone ({_told(event or {})})"
        elif event is None:
            yield "unknown", ref, f"its history does not know build `{ref}`"
        elif checksum(fields) != fields.get("checksum"):
            text = f"the record of build `{ref}` is not what was recorded: its checksum differs"
            yield "record", ref, f"{text} ({_told(event)})"
        elif fields["checksum"] != event.get("record"):
            text = f"the record of build `{ref}` has another checksum than its history says"
            yield "record", ref, f"{text} ({_told(event)})"


def _told(event: Mapping[str, Any]) -> str:
    return f"{event.get('action')} at {event.get('at')} by {event.get('by')}"


def _quoted(ref: Any) -> str:
    return "nothing" if ref is None else f"`{ref}`"
