from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import e2b
import pytest

from builder import operations, record, registry
from builder.errors import (
    BuildError,
    NetworkError,
    SelectionError,
    StorageError,
    UnknownChannelError,
)
from builder.record import store
from builder.registry.model import Verified
from builder.system.events import discard
from tests.conftest import Command
from tests.support.clouds import Built, Place
from tests.support.e2b_server import Server
from tests.support.e2b_server.faults import Fault
from tests.support.records import entry_of, faultless, faults
from tests.support.runs import promote, two_builds


@pytest.fixture
def twice(
    place: Place, cloud: Server, built_by: Callable[[Callable[[Place], Any]], Built]
) -> tuple[str, str]:
    """Build `four` twice on E2B; the refs of the older build and the newer, `stable` one."""
    built = built_by(two_builds)
    built.copy_to(place, cloud)
    refs: tuple[str, str] = built.result
    return refs


@pytest.mark.slow
def test_rollback_on_e2b_moves_its_tags_too(
    place: Place, cloud: Server, twice: tuple[str, str]
) -> None:
    """After a rollback the registry, the channel's tag and `default` all mean the older build."""
    old, new = twice
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


@pytest.mark.slow
def test_promotion_that_e2b_refuses_leaves_everything(
    place: Place, cloud: Server, twice: tuple[str, str]
) -> None:
    """When the cloud's tags cannot be moved, the registry is as it was, to the byte."""
    old, new = twice
    path = place.folder / "registry.json"
    before = path.read_bytes()
    cloud.front.faults.append(Fault("POST /templates/tags", "status", code=500, times=99))
    with pytest.raises(NetworkError, match="moving the tags"):
        promote(place, old)
    cloud.front.faults.clear()
    assert path.read_bytes() == before
    assert cloud.tags("four")["default"] == new.partition(":")[2]


@pytest.mark.slow
def test_promotion_that_cannot_be_written_puts_the_tags_back(
    place: Place, cloud: Server, twice: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the registry cannot be written after the tags moved, they are moved back."""
    old, new = twice

    def full(*_: Any, **__: Any) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(store, "atomic_write", full)
    with pytest.raises(StorageError, match="the disk is full"):
        promote(place, old)
    assert cloud.tags("four")["default"] == cloud.tags("four")["stable"] == new.partition(":")[2]
    assert registry.resolve("four", path=place.folder / "registry.json") == new


@pytest.mark.slow
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


@pytest.mark.usefixtures("with_four")
def test_plan_blocks_what_would_contain_something_revoked(place: Place, cloud: Server) -> None:
    """The plan says which revoked package the lock holds, before anything is built."""
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


@pytest.mark.slow
def test_adopted_build_has_nothing_to_check(place: Place, cloud: Server, command: Command) -> None:
    """Of an adopted template a sandbox is opened, and it is said that there was nothing to check."""
    ref = place.build("four")["four"].ref
    assert command("adopt", "mine", ref, cwd=place.folder).returncode == 0
    done = command("verify", "mine", "--target", "e2b", cwd=place.folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        f"mine: 0 checks passed ({ref})\n"
        "  no checks are recorded: a sandbox started and listed its packages\n"
    )
    assert cloud.running == {}


def removed(place: Place, *, builds: tuple[str, ...] = (), channels: tuple[str, ...] = ()) -> Any:
    removal = record.Removal(name="four", target="e2b", builds=builds, channels=channels)
    return operations.remove(place.project(), removal, reason=None, report=discard)


@pytest.mark.slow
def test_tags_on_e2b_go_with_what_is_removed(
    place: Place, cloud: Server, twice: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A channel's tag and a build's digest tag are removed with them. They stay when the registry
    cannot be written, and, which is said, where the key is missing; so does what E2B does not remove,
    and a tag that is on another build now."""
    old, new = twice
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


@pytest.mark.slow
def test_registry_is_put_back_from_the_cloud(place: Place, ready: Server, command: Command) -> None:
    """When the file is lost, `registry rebuild` finds the builds by their tags, runs their checks
    again, and what resolves is what resolved before."""
    place.build("four")
    path = place.folder / "registry.json"
    before = {name: registry.resolve(name, path=path) for name in ("one", "four")}
    place.edit("four", lambda text: f'{text}[env]\nA = "1"\n')  # built from another spec than now's
    path.write_text("{ not a registry")
    key = ready.environment
    done = command("registry", "rebuild", "--target", "e2b", cwd=place.folder, **key)
    assert done.returncode == 0, done.stderr
    assert "it was moved to" in done.stderr
    assert len(list(place.folder.glob("registry.json.unreadable-*"))) == 1
    assert {name: registry.resolve(name, path=path) for name in before} == before
    assert faults(path) == []
    one, four = registry.lookup("one", path=path), registry.lookup("four", path=path)
    assert one.build.verified == Verified(
        checks=("import packaging", "import idna", "a sum"), seconds=one.build.seconds
    )
    assert one.build.inputs["packages"]
    assert four.build.verified == Verified(checks=("a sandbox opens and lists its packages",))
    assert "iniconfig" in four.packages
    again = command("registry", "rebuild", "--target", "e2b", cwd=place.folder, **key)
    assert again.stdout == "no build is missing that e2b has\n"
    assert not ready.running


@pytest.mark.slow
def test_held_channel_on_e2b_keeps_its_tags(
    place: Place, cloud: Server, twice: tuple[str, str]
) -> None:
    """On E2B neither `default` nor the channel's tag follows a build while the channel is held; a
    second build does nothing, another channel moves, and `--release` moves all of them."""
    old, new = twice
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


@pytest.mark.usefixtures("with_four")
def test_unhold_of_a_channel_that_is_not_there(place: Place, cloud: Server) -> None:
    """A channel that does not exist is told as that, with near matches."""
    with pytest.raises(UnknownChannelError) as caught:
        operations.unhold(
            place.project(), operations.ChannelRequest(name="four", channel="stabel", target="e2b")
        )
    assert caught.value.hint == "did you mean `stable`?"


def answered(folder: Path, answer: bytes, *arguments: str) -> tuple[int, str]:
    """Run `template-builder` on a terminal of its own; the exit code, and what was shown."""
    terminal, inner = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "builder", *arguments],
        stdin=inner, stdout=inner, stderr=inner, cwd=folder, start_new_session=True,
    )  # fmt: skip
    os.close(inner)
    shown, replied = b"", False
    with contextlib.suppress(OSError):  # the end of the terminal
        while part := os.read(terminal, 4096):
            shown += part
            if not replied and shown.endswith(b"[y/N]: "):
                os.write(terminal, answer)
                replied = True
    os.close(terminal)
    assert replied, shown
    return process.wait(), shown.decode().replace("\r\n", "\n")


@pytest.mark.slow
def test_no_changes_nothing(place: Place, cloud: Server, twice: tuple[str, str]) -> None:
    """Whoever does not say yes ends the command with one line and exit code 1, and nothing is
    changed."""
    old, _new = twice
    path = place.folder / "registry.json"
    before, tags = path.read_bytes(), cloud.tags("four")
    remove = ("remove", f"four@{old}", "--target", "e2b")
    gc = ("gc", "--target", "e2b", "--keep", "1", "--history", "0", "--protect-days", "0")
    doctor = ("doctor", "--live", "--target", "e2b")
    enter, end = b"\n", b"\x04"  # Ctrl-D
    questions = [(b"n\n", remove), (b"n\n", gc), (b"n\n", doctor), (enter, remove), (end, remove)]
    for answer, arguments in questions:
        code, shown = answered(place.folder, answer, *arguments)
        lines = shown.splitlines()
        assert (code, lines[-1]) == (1, "not confirmed: nothing was changed"), shown
        assert lines[-2].removesuffix("n").endswith("[y/N]: ")
        assert "Traceback" not in shown
    assert (path.read_bytes(), cloud.tags("four")) == (before, tags)


@pytest.mark.slow
def test_yes_goes_on(place: Place, cloud: Server, twice: tuple[str, str]) -> None:
    """A yes at the terminal has the command do what it asked for."""
    old, _new = twice
    code, shown = answered(place.folder, b"y\n", "remove", f"four@{old}", "--target", "e2b")
    assert code == 0, shown
    assert f"removed: build {old} of four on e2b\n" in shown
    assert len(cloud.builds("four")) == 2
