"""Going back on E2B: from revoked and removed builds to those that were made before them."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest

from builder import operations, record
from builder.system.events import discard
from tests.conftest import Command
from tests.support.clouds import Place
from tests.support.e2b_server import Server
from tests.support.runs import reasons, variable


def revoke(place: Place, build_id: str) -> None:
    (ref,) = (ref for ref in builds(place) if ref.endswith(build_id))
    project = place.project()
    record.revoke(project.registry, ("four", "e2b", ref), reason="bad", by="me")


def builds(place: Place) -> list[str]:
    from builder.registry import load

    return [*load(place.project().registry).templates["four"]["e2b"].builds]


@pytest.mark.slow
@pytest.mark.parametrize("clone", [False, True], ids=["same machine", "clone"])
@pytest.mark.parametrize("channel", ["stable", "canary"])
def test_older_spec_replaces_a_revoked_build(
    place: Place, cloud: Server, command: Command, channel: str, clone: bool
) -> None:
    """After the newest build of a channel was revoked, the build of an older spec gets the channel
    and its tags."""
    variable(place, "0")
    assert place.build("four", channel=channel)["four"].error is None
    variable(place, "1")
    assert place.build("four", channel=channel)["four"].error is None
    good, bad = cloud.builds("four")
    revoke(place, bad.id)
    if clone:
        shutil.rmtree(place.folder / ".builder", ignore_errors=True)
    variable(place, "0")
    (planned,) = place.planned("four", channel=channel).variants
    assert planned.action == "retag"
    assert str(planned.reasons[0]).startswith("the build is revoked")
    done = command(
        "build", "four", "--frozen", "--target", "e2b", "--channel", channel, cwd=place.folder
    )
    assert done.returncode == 0, done.stderr
    assert "retagged" in done.stdout
    assert cloud.tags("four")[channel] == good.id
    done = command("resolve", "four", "--target", "e2b", "--channel", channel, cwd=place.folder)
    assert done.stdout == f"{good.template_id}:{good.id}\n"


@pytest.mark.slow
def test_newer_spec_replaces_a_revoked_build_of_another_channel(
    place: Place, cloud: Server
) -> None:
    """A channel on a revoked build is moved to a build that another channel has already."""
    variable(place, "0")
    assert place.build("four", channel="next")["four"].error is None
    variable(place, "1")
    assert place.build("four")["four"].error is None
    bad, good = cloud.builds("four")
    revoke(place, bad.id)
    assert place.build("four", channel="next")["four"].action == "retagged"
    assert cloud.tags("four")["next"] == good.id


@pytest.mark.slow
def test_revoked_build_gives_way_to_an_older_one_that_is_recorded_later(
    places: Callable[[str], Place], cloud: Server
) -> None:
    """A revoked build keeps no channel from one that was begun before it."""
    one, other = places("one"), places("other")
    variable(one, "0")
    assert one.build("four")["four"].error is None
    variable(other, "1")
    assert other.build("four")["four"].error is None
    older, bad = cloud.builds("four")
    revoke(other, bad.id)
    variable(other, "0")
    outcome = other.build("four")["four"]
    assert (outcome.action, outcome.overtaken) == ("built", None)
    assert len(cloud.builds("four")) == 2
    assert cloud.tags("four")["stable"] == older.id


@pytest.mark.slow
def test_build_that_was_removed_here_is_not_another_machine_s(
    place: Place, cloud: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tag on a build whose record was removed without a key is moved back from it."""
    variable(place, "0")
    assert place.build("four")["four"].error is None
    variable(place, "1")
    assert place.build("four")["four"].error is None
    good, gone = cloud.builds("four")
    project = place.project()
    removal = operations.removal_of(project, "four", gone.id, channels=["stable"], target="e2b")
    with monkeypatch.context() as without_key:
        without_key.delenv("E2B_API_KEY")
        note = operations.remove(project, removal, reason=None, report=discard)
    assert note
    variable(place, "0")
    assert reasons(place, "four")[0] == "retag"
    assert place.build("four")["four"].action == "retagged"
    assert cloud.tags("four")["stable"] == good.id
