"""The order of events is that of the history, never that of clocks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder import record, registry
from builder.operations.retention import Keep, needed
from builder.registry import chain, history
from builder.registry.model import Event
from builder.registry.references import newest_usable
from tests.support.records import edited, entry_of, faults, made, typed_entry_of


def chained(*actions: str, after: str = "") -> list[Event]:
    events = []
    for action in actions:
        event = Event(action=action)
        after = chain.checksum(event.to_json(), without="chain", after=after)
        events.append(replace(event, chain=after))
    return events


def names(events: list[Event]) -> str:
    return "".join(event.action or "" for event in events)


def with_clocks(monkeypatch: pytest.MonkeyPatch, folder: Path, *days: int) -> tuple[Path, Any]:
    """Builds made one after the other on machines whose clocks show those days."""
    moments = iter(f"2026-11-{day:02}T00:00:00Z" for day in days for _ in range(2))
    for module in ("builder.registry.history", "builder.record.fields"):
        monkeypatch.setattr(f"{module}.now", lambda: next(moments))
    found = made(folder, *(f"1.{number}" for number in range(len(days))))
    monkeypatch.undo()
    return found


@given(st.permutations(range(6)))
def test_any_shuffle_is_put_in_order(order: list[int]) -> None:
    """Events in any order come back in that of their chain."""
    events = chained(*"abcdef")
    assert names(chain.in_order([events[number] for number in order])) == "abcdef"


@given(st.data())
def test_two_sides_keep_their_own_order(data: st.DataObject) -> None:
    """However the events of two branches were mixed, each comes after its own predecessor, and a
    mix that a person chose, in which they do, stays as it is."""
    start = chained(*"ab")
    ours, theirs = (chained(*side, after=start[-1].chain or "") for side in ("cde", "xyz"))
    mixed = data.draw(st.permutations([*ours, *theirs, *start]))
    ordered = names(chain.in_order(mixed))
    assert ordered.startswith("ab")
    assert "".join(name for name in ordered if name in "cde") == "cde"
    assert "".join(name for name in ordered if name in "xyz") == "xyz"
    again = chain.in_order(chain.in_order(mixed))
    assert names(again) == ordered


def test_event_that_is_there_twice_is_kept_once() -> None:
    """What both sides of a merge brought along is one event; the same deed done again is two."""
    start = chained(*"aba")
    assert names(chain.in_order([*start, *start])) == "aba"


def test_edited_event_stays_where_it_is() -> None:
    """An event that no longer follows from any other keeps its place, and so do the others."""
    events = chained(*"abcd")
    events[1] = replace(events[1], action="B")
    assert names(chain.in_order(events)) == "aBcd"
    assert names(chain.in_order([events[0], *events[2:]])) == "acd"


def test_newest_is_the_one_recorded_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build of a machine whose clock is ten days behind is the newest when it was recorded
    last: for `promote` and for what `gc` keeps."""
    path, refs = with_clocks(monkeypatch, tmp_path, 20, 10)
    entry = typed_entry_of(path)
    times = [entry.builds[ref].built_at for ref in refs]
    assert times == ["2026-11-20T00:00:00Z", "2026-11-10T00:00:00Z"]
    assert history.newest_first(entry) == refs[::-1]
    assert newest_usable(registry.load(path), "leaf", "local").ref == refs[1]
    assert needed(replace(entry, channels={}), Keep(newest=1, steps=0)) == {
        refs[1]: "among the newest 1"
    }


def test_repair_does_not_go_by_clocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a fault in the chain one repair is enough, and `stable` stays on the newest build,
    whose clock was ten days behind."""
    path, refs = with_clocks(monkeypatch, tmp_path, 20, 10, 15)
    edited(path, lambda entry: entry["history"][0].update(by="somebody else"))
    mended, left = record.repair(path, by="x")
    assert [text.rpartition(": ")[2] for text in mended] == ["sorted by its chain"]
    assert left == []
    assert registry.resolve("leaf", path=path) == refs[2]
    assert [event["build"] for event in entry_of(path)["history"]] == refs
    before = path.read_bytes()
    assert record.repair(path, by="x") == ([], [])
    assert json.loads(path.read_bytes()) == json.loads(before)


@pytest.mark.parametrize("pointing", [0, 1])
@pytest.mark.parametrize(
    "mix", [lambda ours, theirs: [*ours, *theirs], lambda ours, theirs: [*theirs, *ours]]
)
def test_merged_channel_stays_where_the_merge_left_it(
    tmp_path: Path, pointing: int, mix: Callable[[Any, Any], list[Any]]
) -> None:
    """Where both branches moved `stable`, it stays on the build that the merged file says,
    whichever side's events come first."""
    path, refs = made(tmp_path, "1.0", "1.1", "1.2")
    base = json.loads(path.read_text())
    sides = []
    for ref in refs[:2]:
        path.write_text(json.dumps(base))
        record.move(
            path,
            record.Change(name="leaf", target="local", by="x", channel="stable"),
            ref,
            action="promote",
        )
        sides.append(entry_of(path)["history"])
    merged = [*sides[0][:3], *mix(sides[0][3:], sides[1][3:])]
    path.write_text(json.dumps(base))
    edited(path, lambda entry: entry.update(history=merged, channels={"stable": refs[pointing]}))
    _, left = record.repair(path, by="x")
    assert left == faults(path) == []
    assert registry.resolve("leaf", path=path) == refs[pointing]
    assert record.repair(path, by="x") == ([], [])
