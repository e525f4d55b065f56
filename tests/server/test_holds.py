from __future__ import annotations

import pytest

from builder import operations, registry
from builder.errors import UnknownChannelError
from builder.system.events import discard
from tests.support.clouds import Place
from tests.support.e2b_server import Server
from tests.support.runs import two_builds


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
