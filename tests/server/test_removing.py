from __future__ import annotations

import json
from typing import Any

import e2b
import pytest

from builder import operations, record
from builder.errors import SelectionError, StorageError
from builder.record import store
from builder.system.events import discard
from tests.support.clouds import Place
from tests.support.e2b_server import Server
from tests.support.records import faultless
from tests.support.runs import two_builds


def removed(place: Place, *, builds: tuple[str, ...] = (), channels: tuple[str, ...] = ()) -> Any:
    removal = record.Removal(name="four", target="e2b", builds=builds, channels=channels)
    return operations.remove(place.project(), removal, reason=None, report=discard)


def test_tags_on_e2b_go_with_what_is_removed(
    place: Place, cloud: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A channel's tag and a build's digest tag are removed with them. They stay when the registry
    cannot be written, and, which is said, where the key is missing; so does what E2B does not remove,
    and a tag that is on another build now."""
    old, new = two_builds(place)
    place.build("four", channel="canary")
    before = cloud.tags("four")

    def full(*_: Any, **__: Any) -> None:
        raise StorageError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(store, "atomic_write", full)
        with pytest.raises(StorageError, match=r"the disk is full$"):
            removed(place, builds=(old,), channels=("canary",))
    assert cloud.tags("four") == before
    with pytest.raises(SelectionError):
        removed(place, builds=(new,))
    assert cloud.tags("four") == before
    assert removed(place, builds=(old,), channels=("canary",)) is None
    gone = {tag for tag, build in before.items() if build == old.partition(":")[2]}
    gone |= {tag for tag in before if tag.startswith("canary")}
    assert cloud.tags("four") == {tag: b for tag, b in before.items() if tag not in gone}
    assert faultless(place.folder / "registry.json")
    place.build("four", channel="canary")
    other = old.partition(":")[2]
    e2b.Template.assign_tags(f"four:{other}", "canary")
    assert removed(place, channels=("canary",)) == f"`canary` on e2b stays: it is on build {other}"
    assert cloud.tags("four")["canary"] == other
    place.build("four", channel="canary")
    monkeypatch.setenv("E2B_API_KEY", "")
    assert removed(place, channels=("canary",)) == (
        "its tags on e2b are left as they are: target `e2b` needs an account: `E2B_API_KEY` is not"
        " set"
    )
    monkeypatch.setenv("E2B_API_KEY", cloud.key)
    latest = new.partition(":")[2]
    assert removed(place, channels=("stable",)) == (
        f"`default` on e2b stays on build {latest}: E2B removes it only with the template, which"
        " `template-builder gc` deletes once the registry has no build of it"
    )
    assert "stable" not in cloud.tags("four")
    assert cloud.tags("four")["default"] == latest
    entry = json.loads((place.folder / "registry.json").read_text())["templates"]["four"]["e2b"]
    assert entry["channels"] == {}
