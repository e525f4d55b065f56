from __future__ import annotations

import json
from typing import Any

import pytest

from builder import operations, record, registry
from builder.errors import BuildError, NetworkError, StorageError
from builder.record import store
from builder.system.events import discard
from tests.support.clouds import Place
from tests.support.e2b_server import Server
from tests.support.e2b_server.faults import Fault
from tests.support.records import entry_of
from tests.support.runs import promote, two_builds


def test_rollback_on_e2b_moves_its_tags_too(place: Place, cloud: Server) -> None:
    """After a rollback the registry, the channel's tag and `default` all mean the older build."""
    old, new = two_builds(place)
    moved = operations.rollback(
        place.project(),
        operations.ChannelRequest(name="four", channel="stable", target="e2b", reason="slow"),
        None,
        report=discard,
    )
    assert (moved.before, moved.ref) == (new, old)
    wanted = old.partition(":")[2]
    assert cloud.tags("four")["default"] == cloud.tags("four")["stable"] == wanted
    assert registry.resolve("four", path=place.folder / "registry.json") == old
    told = entry_of(place.folder / "registry.json", "four", "e2b")["history"][-1]
    assert told["action"] == "rollback"
    assert (told["from"], told["to"], told["reason"]) == (new, old, "slow")


def test_promotion_that_e2b_refuses_leaves_everything(place: Place, cloud: Server) -> None:
    """When the cloud's tags cannot be moved, the registry is as it was, to the byte."""
    old, new = two_builds(place)
    path = place.folder / "registry.json"
    before = path.read_bytes()
    cloud.front.faults.append(Fault("POST /templates/tags", "status", code=500, times=99))
    with pytest.raises(NetworkError, match="moving the tags"):
        promote(place, old)
    cloud.front.faults.clear()
    assert path.read_bytes() == before
    assert cloud.tags("four")["default"] == new.partition(":")[2]


def test_promotion_that_cannot_be_written_puts_the_tags_back(
    place: Place, cloud: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the registry cannot be written after the tags moved, they are moved back."""
    old, new = two_builds(place)

    def full(*_: Any, **__: Any) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(store, "atomic_write", full)
    with pytest.raises(StorageError, match="the disk is full"):
        promote(place, old)
    assert cloud.tags("four")["default"] == cloud.tags("four")["stable"] == new.partition(":")[2]
    assert registry.resolve("four", path=place.folder / "registry.json") == new


def test_adopted_template_is_looked_for(place: Place, cloud: Server) -> None:
    """With a key, `adopt` takes what the account has, and says which build a tag leads to."""
    ref = place.build("four")["four"].ref or ""
    template_id, _, build_id = ref.partition(":")

    def adopt(what: str) -> operations.Moved:
        return operations.adopt(
            place.project(),
            operations.ChannelRequest(name="mine", channel="stable"),
            what,
            place.project().targets["e2b"],
            unchecked=False,
            report=discard,
        )

    assert adopt(template_id).note == (
        f"a bare ID follows the tag `default` there; {template_id}:BUILD_ID pins one build"
    )
    assert registry.resolve("mine", path=place.folder / "registry.json") == template_id
    assert adopt(ref).note is None
    assert registry.resolve("mine", path=place.folder / "registry.json") == ref
    with pytest.raises(BuildError, match="e2b has no template `nothing0here`"):
        adopt("nothing0here")
    with pytest.raises(BuildError, match="`stable` is a tag of") as caught:
        adopt(f"{template_id}:stable")
    assert caught.value.hint == f"name the build that has it now: {template_id}:{build_id}"


def test_plan_blocks_what_would_contain_something_revoked(place: Place, cloud: Server) -> None:
    """The plan says which revoked package the lock holds, before anything is built."""
    place.build("four")
    version = place.recorded("four")["packages"]["iniconfig"]
    content = record.Content.parse("package", f"iniconfig=={version}")
    record.revoke(place.folder / "registry.json", content, reason="a hole", by="x")
    (planned,) = place.planned("four").variants
    assert planned.action == "blocked"
    at = json.loads((place.folder / "registry.json").read_text())["revocations"][0]["at"]
    assert str(planned.reasons[0]) == (
        f"`four` contains package iniconfig=={version}, which is revoked as of {at}: a hole; exclude it in"
        " the spec, for instance with `!=` and its version, or run `template-builder restore` for"
        " it"
    )
