"""The history of a template on one target: every change, and proof that none is missing.

Each event carries the SHA-256 of itself and its predecessor. Each record carries the SHA-256 of its
content, and so does the event that recorded it. Edits by hand, losses and merges of two branches
break these checksums. Pure: works in memory and writes no file.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from builder.registry import chain
from builder.registry.chain import checksum
from builder.registry.identity import Ref, utc
from builder.registry.model import Action, Build, Entry, Event

# The reason of a build that was recorded since the target has it, and of a channel moved to it.
PUT_BACK = "put back from"
_RECORDING = ("adopt", "build")


def now() -> str:
    """Return the current time in UTC, as records hold it: `2026-11-23T07:49:55Z`."""
    return utc(time.time())


def append(
    entry: Entry,
    action: Action,
    by: str,
    *,
    build: str | None = None,
    channel: str | None = None,
    to: str | None = None,
    reason: str | None = None,
) -> None:
    """Add an event to the history of `entry`.

    `by` is who acts. `build` is the ref of the record that was added, changed or removed; its
    checksum is renewed. Point `channel`, if given, at the ref `to`, or remove it if `to` is None.
    """
    record = entry.builds.get(build) if build is not None else None
    if build is not None and record:
        record = replace(record, checksum=checksum(record.to_json()))
        entry.builds[build] = record
    event = Event(
        action=action,
        at=now(),
        by=by,
        reason=reason or None,
        build=Ref(build) if build is not None else None,
        record=record.checksum if record else None,
    )
    if channel is not None:
        before = entry.channels.pop(channel, None)
        # Write both keys, even for a channel that points or pointed at nothing.
        rest = {"from": None, "to": None}
        ref = None if to is None else Ref(to)
        event = replace(event, channel=channel, before=before, to=ref, rest=rest)
        if ref is not None:
            entry.channels[channel] = ref
    after = entry.history[-1].chain or "" if entry.history else ""
    entry.history.append(_chained(event, after))


def rechain(entry: Entry) -> None:
    """Sort the events of `entry` by their chain, drop duplicates and renew the chain."""
    before = ""
    events = chain.in_order(entry.history)
    entry.history.clear()
    for event in events:
        entry.history.append(_chained(event, before))
        before = entry.history[-1].chain or ""


def _chained(event: Event, after: str) -> Event:
    return replace(event, chain=checksum(event.to_json(), without="chain", after=after))


def build_ids(entry: Entry) -> set[str]:
    """Return the IDs of all builds that are, or were, recorded in `entry`."""
    recorded = {build.build_id or "" for build in entry.builds.values()}
    return (recorded | {event.build.build_id for event in entry.history if event.build}) - {""}


def overtaken(entry: Entry, ref: str, channel: str) -> bool:
    """Return whether `ref` did not get `channel` because a build that was begun later has it.

    The reason of the event that recorded `ref` without a channel says so.
    """
    present, reason = entry.channels.get(channel), overtaken_because(entry, ref)
    order = newest_first(entry)
    if present not in order or ref not in order or reason is None:
        return False
    return present.build_id in reason or order.index(present) < order.index(ref)


def put_back(entry: Entry, ref: str, channel: str) -> bool:
    """Return whether `channel` was last moved to where another machine had published it, after
    `ref` was recorded."""
    for event in reversed(entry.history):
        if event.channel == channel:
            return event.action == "repair" and (event.reason or "").startswith(PUT_BACK)
        if (event.action, event.build) == ("build", ref):
            return False
    return False


def overtaken_because(entry: Entry, ref: str) -> str | None:
    """Return why a build was recorded without a channel, if a newer build had it."""
    for event in reversed(entry.history):
        if (event.action, event.build) == ("build", ref):
            return event.reason if event.channel is None else None
    return None


def timeline(entry: Entry, channel: str) -> list[str]:
    """Return the builds that `channel` has pointed at, oldest first, the current one last.

    Builds that a rollback left are not among them, so that a second rollback goes further back.
    """
    steps: list[str] = []
    for event in entry.history:
        if event.channel != channel:
            continue
        if not steps and event.before is not None:
            steps.append(event.before)  # from before the history began
        if event.to is None:
            continue
        if event.action == "rollback" and event.to in steps:
            del steps[len(steps) - steps[::-1].index(event.to) :]
        elif not steps or steps[-1] != event.to:
            steps.append(event.to)
    present = entry.channels.get(channel)
    if present is not None and (not steps or steps[-1] != present):
        steps.append(present)
    return steps


def newest_first(entry: Entry) -> list[str]:
    """Return the refs of all builds, the last recorded first, those unknown to the history last.

    Only the history decides, since the clocks of the building machines may differ.
    """
    recorded: dict[str | None, int] = {}
    for number, event in enumerate(entry.history):
        if event.action in _RECORDING:
            recorded[event.build] = number
        else:  # any event about a build proves that it was there
            recorded.setdefault(event.build, number)
    return sorted(entry.builds, key=lambda ref: (recorded.get(ref, -1), ref), reverse=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """A place where the registry contradicts its history. `kind` says what `subject` is: a build's
    ref, a channel or the number of an event."""

    name: str
    target: str
    kind: str
    subject: str
    text: str

    def __str__(self) -> str:
        return f"`{self.name}` on `{self.target}`: {self.text}"


def faults(templates: Mapping[str, Mapping[str, Entry]]) -> Iterator[Fault]:
    """Yield every place where the registry contradicts its history."""
    for name, targets in sorted(templates.items()):
        for target, entry in sorted(targets.items()):
            for kind, subject, text in _faults(entry):
                yield Fault(name=name, target=target, kind=kind, subject=subject, text=text)


def _faults(entry: Entry) -> Iterator[tuple[str, str, str]]:
    pointed: dict[str, Event] = {}
    recorded: dict[str, Event] = {}
    before = ""
    for number, event in enumerate(entry.history, 1):
        if event.chain != checksum(event.to_json(), without="chain", after=before):
            text = (
                f"event {number} of its history ({_described(event)}) does not follow from the one"
            )
            yield "chain", str(number), f"{text} before it: edited, lost, or merged from two sides"
        before = event.chain or ""
        if event.channel is not None:
            pointed[event.channel] = event
        if event.build is not None:
            recorded[event.build] = event
    yield from _records(entry.builds, recorded)
    for channel in sorted({*entry.channels, *pointed}):
        now_at, moved = entry.channels.get(channel), pointed.get(channel)
        to = moved.to if moved else None
        if now_at is not None and now_at not in entry.builds:
            yield (
                "channel",
                channel,
                f"channel `{channel}` points at `{now_at}`, which is not a build",
            )
        elif now_at != to:
            history = f"its history says {_quoted(to)}" + (
                f" ({_described(moved)})" if moved else ""
            )
            text = f"channel `{channel}` points at {_quoted(now_at)}; {history}"
            yield "channel", channel, text


def _records(
    builds: Mapping[str, Build], recorded: Mapping[str, Event]
) -> Iterator[tuple[str, str, str]]:
    for ref in sorted({*builds, *recorded}):
        build, event = builds.get(ref), recorded.get(ref)
        if event is None:
            yield "unknown", ref, f"build `{ref}` is not in its history"
        elif build is None:
            if event.action != "remove":
                yield "lost", ref, f"the record of build `{ref}` is gone ({_described(event)})"
        elif checksum(build.to_json()) != build.checksum:
            text = f"the record of build `{ref}` is not what was recorded: its checksum differs"
            yield "record", ref, f"{text} ({_described(event)})"
        elif build.checksum != event.record:
            text = f"the record of build `{ref}` does not have the checksum in its history"
            yield "record", ref, f"{text} ({_described(event)})"


def _described(event: Event) -> str:
    return f"{event.action} at {event.at} by {event.by}"


def _quoted(ref: str | None) -> str:
    return "nothing" if ref is None else f"`{ref}`"
