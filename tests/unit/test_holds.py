from __future__ import annotations

import json
from pathlib import Path

import pytest

from builder import operations, record, registry
from builder.errors import BlockedError, UnknownChannelError
from builder.plan import Plan, Situation, make_plan
from builder.registry import Ref, history
from builder.registry.model import Build, Contents, Hold
from builder.system.events import discard
from tests.conftest import BASE, Command
from tests.support.clouds import Place
from tests.support.e2b_server import Server
from tests.support.records import LEAF, entry_of, made, typed_entry_of
from tests.support.runs import two_builds
from tests.support.samples import load, rendered_of, verified_of


def rolled_back(path: Path, ref: str) -> None:
    record.move(
        path,
        record.Change(name="leaf", target="local", by="Ann", reason="it lies", channel="stable"),
        ref,
        action="rollback",
    )


def held(path: Path) -> Hold | None:
    return typed_entry_of(path).holds.get("stable")


def built(path: Path, version: str, *, release: bool = False) -> str:
    """Record a build of another version, as `build` does; its ref."""
    rendered = rendered_of(load(path.parent, _base=BASE, leaf=LEAF)["leaf"], version=version)
    verified = verified_of(rendered, packages={"idna": version})
    record.record(path, verified, rendered, by="a job", release=release)
    return verified.built.ref


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
    assert [str(r) for r in skipped.reasons] == ["the build of this spec is recorded", why]
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


def test_held_channel_on_e2b_keeps_its_tags(place: Place, cloud: Server) -> None:
    """On E2B neither `default` nor the channel's tag follows a build while the channel is held; a
    second build does nothing, another channel moves, and `--release` moves all of them."""
    old, new = two_builds(place)
    project = place.project()
    operations.rollback(
        project,
        operations.ChannelRequest(name="four", channel="stable", target="e2b", reason="slow"),
        None,
        report=discard,
    )

    def stable() -> set[str]:
        return {cloud.tags("four")[tag] for tag in ("default", "stable")}

    good = {old.partition(":")[2]}
    again = place.build("four")["four"]
    assert (again.action, again.ref) == ("skipped", new)
    assert again.held
    assert again.to_json()["held"]["reason"] == "slow"
    assert stable() == good
    place.edit("four", lambda text: text.replace('A = "1"', 'A = "2"'))
    third = place.build("four")["four"]
    assert third.action == "built"
    assert third.held
    assert stable() == good
    assert registry.resolve("four", path=project.registry) == old
    assert place.build("four", channel="canary")["four"].action == "retagged"
    assert cloud.tags("four")["canary"] == (third.ref or "").partition(":")[2]
    (template,) = cloud.state.templates.values()
    template.tags.append(("stable", new.partition(":")[2], template.tags[-1][2]))
    assert place.build("four")["four"].action == "retagged"  # somebody had moved the tag by hand
    assert stable() == good
    released = place.build("four", release=True)["four"]
    assert (released.action, released.ref, released.held) == ("retagged", third.ref, None)
    assert stable() == {(third.ref or "").partition(":")[2]}
    assert registry.resolve("four", path=project.registry) == third.ref


def test_unhold_of_a_channel_that_is_not_there(place: Place, cloud: Server) -> None:
    """A channel that does not exist is told as that, with near matches."""
    place.build("four")
    with pytest.raises(UnknownChannelError) as caught:
        operations.unhold(
            place.project(), operations.ChannelRequest(name="four", channel="stabel", target="e2b")
        )
    assert caught.value.hint == "did you mean `stable`?"


@pytest.mark.network
def test_hold_from_the_command_line(project: Path, command: Command) -> None:
    """rollback, build, list, outdated, show, unhold: each says what is held, since when and why."""

    def run(*arguments: str, code: int = 0) -> str:
        done = command(*arguments, cwd=project)
        assert done.returncode == code, done.stderr
        return done.stdout

    run("build", "light")
    spec = project / "variants" / "light.toml"
    spec.write_text(spec.read_text().replace("'light'", "'light'\ndescription = 'x'", 1))
    run("build", "light")
    told = run("rollback", "light", "--reason", "slower")
    assert told.splitlines()[1] == (
        "it is on hold: builds do not move it until `template-builder unhold light --channel"
        " stable --target local`, `build --release` or `promote`"
    )
    (row,) = json.loads(run("list", "--json"))
    why = f"held since {row['held']['at']} by {row['held']['by']}: slower"
    assert f"  here; {why}  " in run("list")
    assert f"\nChannel stable is {why}\n" in run("show", "light")
    assert f"channel stable is {why}" in run("plan", "light", "--frozen", "--exit-code")
    assert (
        f"channel stable of light is {why}; it does not point at this build until `template-builder"
        " promote light --channel stable --target local` or `build --release`\n"
    ) in run("build", "light")
    assert "light     held   0 days  nothing would change" in run("outdated", "light")
    assert run("resolve", "light").strip() == row["ref"]
    assert run("unhold", "light") == (
        f"channel stable of light on local is no longer on hold (it was {why})\n"
    )
    assert run("unhold", "light") == "channel stable of light on local is not on hold\n"
    run("build", "light")
    assert run("resolve", "light").strip() != row["ref"]
    run("rollback", "light")
    run("build", "light", "--release")
    assert run("resolve", "light").strip() != row["ref"]
    assert json.loads(run("list", "--json"))[0]["held"] is None


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
