"""The chain of a template's events: each holds a checksum of itself and its predecessor.

The chain gives their order, whatever clocks say. The two sides of a merge share a beginning; an
event that was edited, or whose predecessor is lost, follows no other. Pure.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence

if False:  # for type checkers: a look-up does without typing and the model
    from typing import Any

    from builder.registry.model import Event

_START = -1


def checksum(fields: Mapping[str, Any], *, without: str = "checksum", after: str = "") -> str:
    """Return `sha256:…` of the checksum `after` and a table without the key `without`."""
    return _hashed(after, _text(fields, without))


def _text(fields: Mapping[str, Any], without: str) -> str:
    kept = {key: value for key, value in fields.items() if key != without}
    return json.dumps(kept, sort_keys=True, separators=(",", ":"))


def _hashed(after: str, text: str) -> str:
    return f"sha256:{hashlib.sha256(f'{after}{text}'.encode()).hexdigest()}"


def in_order(events: Iterable[Event]) -> list[Event]:
    """Return the events without duplicates, each after the one that it was chained to.

    Otherwise keep the order in which they are given.
    """
    import heapq  # only repairs need it; every look-up loads this module

    distinct = list(
        {json.dumps(event.to_json(), sort_keys=True): event for event in events}.values()
    )
    followers: dict[int, list[int]] = {}
    ready: list[tuple[bool, int]] = []
    for number, previous in enumerate(_predecessors(distinct)):
        if previous is None or previous == _START:
            ready.append((previous is None, number))
        else:
            followers.setdefault(previous, []).append(number)
    heapq.heapify(ready)  # a history's first event comes before those that follow none
    ordered = []
    while ready:
        _, number = heapq.heappop(ready)
        ordered.append(distinct[number])
        for follower in followers.get(number, ()):
            heapq.heappush(ready, (True, follower))
    return ordered


def sides(events: Sequence[Event], channel: str) -> set[str]:
    """Return where each side of a merge points `channel`; empty if nothing was merged."""
    predecessors = _predecessors(events)
    followers: dict[int, int] = {}
    for previous in predecessors:
        if previous is not None:
            followers[previous] = followers.get(previous, 0) + 1
    pointed: set[str] = set()
    for number, previous in enumerate(predecessors):
        if previous is None or number in followers:
            continue  # edited or unconnected, or not the last of its side
        to, merged, at = None, False, number
        while True:
            if to is None and events[at].channel == channel:
                to = events[at].to
            before = predecessors[at]
            if before is None:
                break
            merged = merged or followers[before] > 1
            if before == _START:
                break
            at = before
        if merged and to is not None:
            pointed.add(to)
    return pointed


def _predecessors(events: Sequence[Event]) -> list[int | None]:
    """Return for each event the index of its predecessor: `_START` for a first event, None if the
    predecessor is missing."""
    by_chain: dict[str, int] = {"": _START}
    for number, event in enumerate(events):
        by_chain.setdefault(event.chain or "", number)
    numbers: list[int | None] = []
    near = ""
    for event in events:
        chain, text = event.chain or "", _text(event.to_json(), "chain")
        # Nearly always it is the event before; search only if it is not.
        after = next(
            (before for before in (near, *by_chain) if _hashed(before, text) == chain), None
        )
        numbers.append(None if after is None else by_chain[after])
        near = chain
    return numbers
