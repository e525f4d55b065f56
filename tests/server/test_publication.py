from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builder import record, registry
from builder.errors import (
    BuildError,
    RevokedError,
    StorageError,
)
from builder.record import publishing, store
from builder.registry.model import Build, ContentRevocation, Contents
from builder.targets.journal import Journal
from tests.conftest import BASE
from tests.support.clouds import Place
from tests.support.e2b_server import Server
from tests.support.records import LEAF
from tests.support.runs import finished, once, revoke, started
from tests.support.samples import load, rendered_of, verified_of

KILLED_BEFORE_IT_WRITES = """
import os, signal
from builder.record import store

def killed(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

store.atomic_write = killed
from builder.cli import main
main()
"""


def channel_tags(server: Server) -> dict[str, str]:
    """The tags of `four`, without those that are of one build alone."""
    alone = ("sha256-", "stable.")
    return {tag: b for tag, b in server.tags("four").items() if not tag.startswith(alone)}


def full(*_: Any, **__: Any) -> None:
    raise StorageError("the disk is full")


@pytest.mark.slow
@pytest.mark.parametrize("earlier", [False, True], ids=["first build", "later build"])
def test_build_that_cannot_be_recorded_moves_no_tag(
    place: Place, cloud: Server, monkeypatch: pytest.MonkeyPatch, earlier: bool
) -> None:
    """When the registry cannot be written after the tags moved, they are as they were before, but for
    a first `default`, which E2B does not remove; the error says so, and the next run records that
    very build."""
    if earlier:
        place.build("four")
        place.edit("four", lambda text: f'{text}[env]\nA = "1"\n')
    path = place.folder / "registry.json"
    before = path.read_bytes() if earlier else None
    tags = channel_tags(cloud) if earlier else {}
    with monkeypatch.context() as patch:
        patch.setattr(store, "atomic_write", full)
        outcome = place.build("four")["four"]
    assert outcome.action == "failed"
    assert outcome.error
    (*_, made) = cloud.builds("four")
    done = (
        "the target was moved back"
        if earlier
        else f"`default` stays on {made.id}: E2B does not remove that tag"
    )
    assert outcome.error.message == f"the disk is full; nothing was recorded: {done}"
    assert (path.read_bytes() if path.exists() else None) == before
    assert channel_tags(cloud) == (tags or {"default": made.id})
    assert place.build("four")["four"].action == "built"
    assert place.recorded("four")["build_id"] == made.id == cloud.tags("four")["default"]
    assert len(cloud.builds("four")) == 1 + earlier


@pytest.mark.usefixtures("with_four")
def test_build_that_was_revoked_meanwhile_moves_no_tag(place: Place, cloud: Server) -> None:
    """When a package of it is revoked while it is built, it is neither published nor recorded."""
    version = place.recorded("four")["packages"]["iniconfig"]
    tags = channel_tags(cloud)
    place.edit("four", lambda text: f'{text}[env]\nA = "1"\n')
    planned = place.planned("four")
    path = place.folder / "registry.json"
    content = record.Content.parse("package", f"iniconfig=={version}")
    record.revoke(path, content, reason="a hole", by="x")
    before = path.read_bytes()
    outcome = place.carry_out(planned, "four")["four"]
    assert isinstance(outcome.error, RevokedError)
    assert path.read_bytes() == before
    assert channel_tags(cloud) == tags


def test_publication_is_taken_back_when_another_writer_was_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the registry is read anew after the target followed, and the build is revoked there,
    the target is led back."""
    rendered = rendered_of(load(tmp_path, _base=BASE, leaf=LEAF)["leaf"])
    verified = verified_of(rendered)
    moved: list[str] = []

    def publish(_build: Build, _channel: str | None) -> Callable[[], None]:
        moved.append("there")
        return lambda: moved.append("back")

    def overtaken(_location: Any, change: Callable[[Contents], Any]) -> Any:
        change(registry.empty("").contents)
        contents = registry.empty("").contents
        contents.revocations.append(
            ContentRevocation(what="package idna==1.0", reason="a hole", at="2026-01-01T00:00:00Z")
        )
        return change(contents)

    monkeypatch.setattr(publishing, "update", overtaken)
    with pytest.raises(RevokedError) as caught:
        record.record("s3://any", verified, rendered, by="x", publish=publish)
    assert moved == ["there", "back"]
    assert caught.value.message == (
        "`leaf` contains package idna==1.0, which is revoked as of 2026-01-01T00:00:00Z: a hole;"
        " nothing was recorded: the target was moved back"
    )


@pytest.mark.slow
def test_run_that_was_killed_before_it_recorded_is_taken_up(place: Place, cloud: Server) -> None:
    """After SIGKILL between the move of the tags and the registry, the next run records what the
    tags are on, and builds nothing."""
    command = [sys.executable, "-c", KILLED_BEFORE_IT_WRITES, "build", "four", "--frozen"]
    done = subprocess.run(
        [*command, "--precheck", "never"], cwd=place.folder, check=False, capture_output=True
    )
    assert done.returncode == -9, done.stderr
    (made,) = cloud.builds("four")
    assert channel_tags(cloud) == {"default": made.id, "stable": made.id}
    assert not (place.folder / "registry.json").exists()
    finished(started(place))
    once(cloud, place)
    assert not Journal(place.folder / ".builder" / "journal", target="e2b").names()


@pytest.mark.usefixtures("with_four")
def test_registry_that_changed_since_the_plan(place: Place, cloud: Server) -> None:
    """A tag is not moved to a build that was revoked after the plan was made."""
    planned = place.planned("four", channel="beta")
    assert [one.action for one in planned.variants] == ["retag"]
    revoke(place, "four")
    outcome = place.carry_out(planned, "four")["four"]
    assert isinstance(outcome.error, BuildError)
    assert outcome.error.message == (
        "the entry of `four` in registry.json has changed since the plan was made"
    )
    assert "beta" not in cloud.tags("four")
