from __future__ import annotations

from pathlib import Path

import pytest

from builder import record, registry
from builder.errors import BlockedError
from builder.plan import Plan, Situation, make_plan
from builder.registry import Ref, history
from builder.registry.model import Build, Contents
from tests.conftest import BASE
from tests.support.records import LEAF, built, entry_of, held, made
from tests.support.samples import load, rendered_of


def rolled_back(path: Path, ref: str) -> None:
    record.move(
        path,
        record.Change(name="leaf", target="local", by="Ann", reason="it lies", channel="stable"),
        ref,
        action="rollback",
    )


def plan_of(path: Path, version: str, *, force: bool = False, release: bool = False) -> Plan:
    rendered = rendered_of(load(path.parent, _base=BASE, leaf=LEAF)["leaf"], version=version)
    known = [fields["digest"] for fields in entry_of(path)["builds"].values()]
    return make_plan(
        {"leaf": rendered},
        registry.load(path).templates,
        Situation(target="local", present=frozenset(known)),
        force=force,
        release=release,
    )


def test_rollback_holds_its_channel(tmp_path: Path) -> None:
    """After a rollback, builds are recorded and leave the channel where it is, other channels
    move; the hold has its time, its author and its reason."""
    path, (old, _new) = made(tmp_path, "1.0", "1.1")
    rolled_back(path, old)
    hold = held(path)
    assert hold
    assert str(hold) == f"held since {hold.at} by Ann: it lies"
    later = built(path, "1.2")
    assert later in entry_of(path)["builds"]
    assert registry.resolve("leaf", path=path) == old
    event = entry_of(path)["history"][-1]
    assert (event["action"], event["build"], event.get("channel")) == ("build", later, None)
    assert held(path) == hold
    assert registry.load(path).checked()
    assert not list(history.faults(registry.load(path).templates))


@pytest.mark.parametrize("how", ["promote", "release", "unhold"])
def test_hold_is_lifted(tmp_path: Path, how: str) -> None:
    """`promote`, `build --release` and `unhold` lift a hold, and the next build moves the channel."""
    path, (old, new) = made(tmp_path, "1.0", "1.1")
    rolled_back(path, old)
    if how == "promote":
        record.move(
            path,
            record.Change(name="leaf", target="local", by="x", channel="stable"),
            new,
            action="promote",
        )
        assert registry.resolve("leaf", path=path) == new
    elif how == "release":
        assert registry.resolve("leaf", path=path) == old
        assert built(path, "1.2", release=True) == registry.resolve("leaf", path=path)
    else:
        record.unhold(
            path,
            record.Change(name="leaf", target="local", by="x", reason="mended", channel="stable"),
        )
        assert registry.resolve("leaf", path=path) == old
        event = entry_of(path)["history"][-1]
        assert (event["action"], event["to"], event["reason"]) == ("unhold", old, "mended")
    assert held(path) is None
    assert "holds" not in entry_of(path)
    assert built(path, "1.3") == registry.resolve("leaf", path=path)
    assert not list(history.faults(registry.load(path).templates))


def test_promotion_to_where_it_stands_lifts_the_hold(tmp_path: Path) -> None:
    """Promoting the very build that a channel is held at is told in the history, and lifts it."""
    path, (old, _) = made(tmp_path, "1.0", "1.1")
    rolled_back(path, old)
    record.move(
        path,
        record.Change(name="leaf", target="local", by="x", channel="stable"),
        old,
        action="promote",
    )
    assert held(path) is None
    assert entry_of(path)["history"][-1]["action"] == "promote"


def test_hold_is_in_the_plan(tmp_path: Path) -> None:
    """What is recorded is skipped, what is not is built, and both say that the channel is held."""
    path, (old, new) = made(tmp_path, "1.0", "1.1")
    rolled_back(path, old)
    why = f"channel stable is {held(path)}"
    (skipped,) = plan_of(path, "1.1").variants
    assert skipped.action == "skip"
    assert [str(r) for r in skipped.reasons] == ["the build of this spec is already recorded", why]
    assert (skipped.ref, skipped.retag) == (old, new)
    assert not plan_of(path, "1.1").something_to_do
    (unchanged,) = plan_of(path, "1.0").variants
    assert (unchanged.action, [str(r) for r in unchanged.reasons]) == (
        "skip",
        ["nothing changed", why],
    )
    (to_build,) = plan_of(path, "1.2").variants
    assert to_build.action == "build"
    assert [str(r) for r in to_build.reasons] == ["idna 1.0 → 1.2", why]
    assert to_build.to_json()["held"]["reason"] == "it lies"
    (released,) = plan_of(path, "1.1", release=True).variants
    assert (released.action, released.retag) == ("retag", new)


def test_adoption_does_not_move_a_held_channel(tmp_path: Path) -> None:
    """`adopt` is refused where the channel is on hold, and nothing is written."""
    path, (old, _) = made(tmp_path, "1.0", "1.1")
    rolled_back(path, old)
    before = path.read_bytes()
    with pytest.raises(BlockedError, match="channel `stable` of `leaf` is held since "):
        record.adopt(
            path,
            record.Change(name="leaf", target="local", by="x", channel="stable"),
            "abc",
            Build(template_id="abc"),
        )
    assert path.read_bytes() == before


def test_repair_keeps_a_hold(tmp_path: Path) -> None:
    """What `registry repair` mends leaves a channel on hold, at the build that it is held at."""
    path, (old, new) = made(tmp_path, "1.0", "1.1")
    rolled_back(path, old)
    hold = held(path)

    def edit(data: Contents) -> None:
        data.templates["leaf"]["local"].channels["stable"] = Ref(new)

    record.update(path, edit)
    mended, left = record.repair(path, by="x")
    assert (len(mended), left) == (1, [])
    assert registry.resolve("leaf", path=path) == old
    assert held(path) == hold
