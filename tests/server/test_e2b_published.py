from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from builder.errors import NetworkError
from builder.targets.e2b import promotion
from tests.conftest import Command
from tests.support.clouds import Place
from tests.support.e2b_server import ModelledSteps, Server
from tests.support.runs import variable

Places = Callable[[str], Place]


@pytest.fixture
def server(lead: Callable[[Server], Server]) -> Server:
    return lead(Server(ModelledSteps()))


def channel_of(place: Place) -> str:
    """The build that the registry has on the channel `stable`."""
    entry = json.loads((place.folder / "registry.json").read_text())["templates"]["four"]["e2b"]
    return str(entry["channels"]["stable"]).partition(":")[2]


def test_newer_build_of_another_registry_is_followed(
    places: Places, server: Server, command: Command
) -> None:
    """Where another machine has published a newer build, `build` moves nothing and says so, and the
    command that it names moves the registry's channel there: neither takes it from the other."""
    old, new = places("old"), places("new")
    to = ("four", "--target", "e2b")
    with server:
        variable(old, "1")
        assert old.build("four")["four"].error is None
        shutil.copy(old.folder / "registry.json", new.folder / "registry.json")
        variable(new, "2")
        assert new.build("four")["four"].error is None
        first, last = server.builds("four")
        tags = server.tags("four")
        why = (
            f"the tag `default` on e2b is on build {last.id}, which another machine published and"
            " this registry does not know: `template-builder registry rebuild four --target e2b`"
            " records it"
        )
        done = command("build", "--frozen", *to, cwd=old.folder)
        assert (done.returncode, channel_of(old)) == (0, first.id)
        moved = f"warning: the channel does not move to `{first.template_id}:{first.id}`: {why}\n"
        assert moved in done.stderr
        done = command("registry", "rebuild", *to, cwd=old.folder)
        recorded = f"recorded: {last.template_id}:{last.id} (four), channels: stable\n"
        assert done.stdout == recorded
        assert channel_of(old) == last.id
        history = json.loads((old.folder / "registry.json").read_text())
        events = history["templates"]["four"]["e2b"]["history"]
        assert [event["action"] for event in events] == ["build", "repair"]
        assert new.build("four")["four"].action == "skipped"
        (first_ref, last_ref) = (f"{build.template_id}:{build.id}" for build in (first, last))
        again = old.build("four")["four"]
        assert again.overtaken == (
            f"the channel does not move to `{first_ref}`: channel stable points at build {last_ref},"
            f" which another machine published; `template-builder promote four {first_ref} --channel"
            " stable --target e2b` moves it anyway"
        )
        assert server.tags("four") == tags
        variable(old, "3")
        assert old.build("four")["four"].action == "built"
        assert channel_of(old) == server.tags("four")["stable"] == server.builds("four")[-1].id


@pytest.mark.slow
def test_promotion_by_another_registry_is_followed(
    places: Places, server: Server, command: Command
) -> None:
    """What another machine promotes stays, also where this registry knows the build; it has the
    channel there again by `promote`, which is on purpose."""
    mine, theirs = places("mine"), places("theirs")
    with server:
        for value in "12":
            variable(mine, value)
            assert mine.build("four")["four"].error is None
        first = server.builds("four")[0]
        shutil.copy(mine.folder / "registry.json", theirs.folder / "registry.json")
        variable(theirs, "2")
        done = command("rollback", "four", "--target", "e2b", cwd=mine.folder)
        assert done.returncode == 0, done.stderr
        (planned,) = theirs.planned("four").variants
        rebuild = "`template-builder registry rebuild four --target e2b`"
        assert [str(reason) for reason in planned.reasons] == [
            f"the tag `default` on e2b is on build {first.id}, which another machine published and"
            f" this registry has not on channel stable: {rebuild} moves the channel there"
        ]
        assert theirs.build("four")["four"].action == "skipped"
        assert server.tags("four")["stable"] == first.id
        done = command("registry", "rebuild", "four", "--target", "e2b", cwd=theirs.folder)
        assert done.stdout.endswith(" (four), channels: stable\n")
        assert theirs.build("four")["four"].action == "skipped"
        assert channel_of(theirs) == first.id == server.tags("four")["stable"]


@pytest.mark.slow
def test_tag_that_was_moved_by_hand_moves_no_channel(
    places: Places, server: Server, command: Command
) -> None:
    """A tag that was moved without a claim is not taken for another machine's build: the registry's
    channel stays where it is, and so does one that is on hold."""
    mine, theirs = places("mine"), places("theirs")
    rebuild = ("registry", "rebuild", "four", "--target", "e2b")
    with server:
        for value in "12":
            variable(mine, value)
            assert mine.build("four")["four"].error is None
        shutil.copy(mine.folder / "registry.json", theirs.folder / "registry.json")
        first, last = server.builds("four")
        (template,) = server.state.templates.values()
        template.tags += [("stable", first.id, template.tags[-1][2])]
        done = command(*rebuild, cwd=mine.folder)
        assert (done.stdout, channel_of(mine)) == ("no build is missing that e2b has\n", last.id)
        template.tags = [tag for tag in template.tags if tag[:2] != ("stable", first.id)]
        done = command("rollback", "four", "--target", "e2b", cwd=mine.folder)
        assert done.returncode == 0, done.stderr
        done = command("promote", "four", last.id, "--target", "e2b", cwd=theirs.folder)
        assert done.returncode == 0, done.stderr
        done = command(*rebuild, cwd=mine.folder)
        assert (done.stdout, channel_of(mine)) == ("no build is missing that e2b has\n", first.id)
        (planned,) = mine.planned("four").variants
        drift, held = map(str, planned.reasons)
        assert planned.action == "skip"
        assert "which another machine published" in drift
        assert held.startswith("channel stable is held")


def test_move_whose_answer_is_lost_is_undone(
    place: Place, cloud: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the channel's tags moved but the answer was lost, they are moved back before the build
    fails, since it is not recorded; the next run publishes it."""
    move = promotion._move

    def lost(*where: Any) -> None:
        move(*where)
        raise NetworkError("lost")

    variable(place, "1")
    assert place.build("four")["four"].error is None
    before = cloud.tags("four")
    variable(place, "2")
    with monkeypatch.context() as patch:
        patch.setattr(promotion, "_move", lost)
        assert type(place.build("four")["four"].error) is NetworkError
    first, last = cloud.builds("four")
    digest = next(tag for tag, build in cloud.tags("four").items() if build == last.id)
    assert cloud.tags("four") == before | {digest: last.id}
    assert channel_of(place) == first.id
    assert place.build("four")["four"].error is None
    assert cloud.tags("four")["stable"] == channel_of(place) == last.id
    assert len(cloud.builds("four")) == 2
