from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builder import operations, record, registry
from builder.errors import BuildError, NetworkError, RevokedError, StorageError, UnknownBuildError
from builder.project import Project
from builder.record import store
from builder.registry import history
from builder.registry.model import Contents
from builder.system.events import discard
from builder.targets.local.place import MANIFEST
from tests.conftest import Command
from tests.support.clouds import Place
from tests.support.e2b_server import Server
from tests.support.e2b_server.faults import Fault
from tests.support.records import entry_of, made, typed_entry_of
from tests.support.runs import two_builds


def promote(place: Place, ref: str) -> None:
    operations.promote(
        place.project(),
        operations.ChannelRequest(name="four", channel="stable", target="e2b"),
        ref,
        report=discard,
    )


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


def test_rollback_goes_further_back_each_time(tmp_path: Path, command: Command) -> None:
    """Two rollbacks go two builds back; a promotion in between starts a new way back."""
    path, refs = made(tmp_path, "1.0", "1.1", "1.2", "1.3")
    entry = typed_entry_of(path)
    assert history.timeline(entry, "stable") == refs

    def back(ref: str) -> None:
        record.move(
            path,
            record.Change(name="leaf", target="local", by="x", channel="stable"),
            ref,
            action="rollback",
        )

    back(refs[2])
    assert history.timeline(typed_entry_of(path), "stable") == refs[:3]
    back(refs[1])
    assert history.timeline(typed_entry_of(path), "stable") == refs[:2]
    record.move(
        path,
        record.Change(name="leaf", target="local", by="x", channel="stable"),
        refs[3],
        action="promote",
    )
    assert history.timeline(typed_entry_of(path), "stable") == [*refs[:2], refs[3]]


def test_revoked_builds_are_passed_over_and_said(tmp_path: Path, local_cache: Path) -> None:
    """A rollback skips what is revoked and says so; where nothing is left it fails and says why."""
    path, refs = made(tmp_path, "1.0", "1.1", "1.2")
    project = Project.find(tmp_path)
    for ref in refs:
        folder = local_cache / "environments" / f"sha256-{ref.rpartition('-')[2]}"
        (folder / "bin").mkdir(parents=True)
        (folder / "bin" / "python").symlink_to(sys.executable)
        (folder / MANIFEST).write_text(
            '{"python": "3.11.7", "ipykernel": "7", "seconds": 1, "size": 1, "cold": {}}'
        )
    record.revoke(path, ("leaf", "local", refs[1]), reason="wrong", by="x")

    def rollback() -> operations.Moved:
        return operations.rollback(
            project,
            operations.ChannelRequest(name="leaf", channel="stable", target="local"),
            None,
            report=discard,
        )

    moved = rollback()
    assert (moved.ref, moved.passed_over) == (refs[0], (refs[1],))
    with pytest.raises(UnknownBuildError) as caught:
        rollback()
    assert caught.value.message == (
        "channel `stable` of `leaf` on `local` cannot go back 1 build: of those that it pointed at"
        " before, those that may be used: none"
    )


def test_a_channel_is_never_moved_to_what_is_revoked_or_unverified(tmp_path: Path) -> None:
    """Both are refused with the reason, and nothing is written."""
    path, refs = made(tmp_path, "1.0", "1.1")
    record.revoke(path, ("leaf", "local", refs[0]), reason="it lies", by="x")
    entry_before = path.read_bytes()
    with pytest.raises(RevokedError, match=r"is revoked as of \d{4}-\S+Z: it lies"):
        record.move(
            path,
            record.Change(name="leaf", target="local", by="x", channel="c"),
            refs[0],
            action="promote",
        )
    assert path.read_bytes() == entry_before

    def unverified(data: Contents) -> None:
        builds = data.templates["leaf"]["local"].builds
        builds[refs[1]] = replace(builds[refs[1]], verified=None)

    record.update(path, unverified)
    with pytest.raises(UnknownBuildError, match="was never verified"):
        record.move(
            path,
            record.Change(name="leaf", target="local", by="x", channel="c"),
            refs[1],
            action="promote",
        )


def test_revocation_in_the_future_has_effect_from_then_on(tmp_path: Path) -> None:
    """Until its time a build resolves; from that second on it fails closed with the reason."""
    path, refs = made(tmp_path, "1.0")
    soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 2))
    record.revoke(path, ("leaf", "local", refs[0]), reason="soon bad", by="x", at=soon)
    assert registry.resolve("leaf", path=path) == refs[0]
    time.sleep(3.1)
    with pytest.raises(RevokedError) as caught:
        registry.resolve("leaf", path=path)
    assert caught.value.message == (
        f"build `{refs[0]}` of template `leaf` on target `local` is revoked as of {soon}: soon bad;"
        " builds that may be used: none"
    )


@pytest.mark.parametrize(
    ("kind", "value", "hit"),
    [
        ("package", "idna==1.1", ["1.1"]),
        ("package", "Idna<1.2", ["1.0", "1.1"]),
        ("package", "pip==9", ["1.0", "1.1", "1.2"]),
        ("package", "torch==1.1", []),
        ("base", "sha256:" + "a" * 64, ["1.0", "1.1", "1.2"]),
        ("base", "sha256:" + "b" * 64, []),
    ],
)
def test_what_a_build_contains_revokes_it(
    tmp_path: Path, kind: str, value: str, hit: list[str]
) -> None:
    """A package or base digest takes every build that contains it out of use, and no other."""
    path, refs = made(tmp_path, "1.0", "1.1", "1.2")
    versions = dict(zip(refs, ("1.0", "1.1", "1.2"), strict=True))
    content = record.Content.parse(kind, value)
    found = record.revoke(path, content, reason="a hole", by="x")
    assert sorted(versions[ref] for _, _, ref, _ in found) == hit
    builds = typed_entry_of(path).builds
    revoked = {ref for ref, build in builds.items() if build.is_revoked}
    assert sorted(versions[ref] for ref in revoked) == hit
    restored = record.restore(path, content, by="x")
    assert {ref for _, _, ref, _ in restored} == revoked
    assert not any(build.is_revoked for build in typed_entry_of(path).builds.values())
    assert not list(history.faults(registry.load(path).templates))


def test_revoked_parent_stage_revokes_its_children(tmp_path: Path) -> None:
    """A stage's digest takes every build out of use that was made with that very stage."""
    path, refs = made(tmp_path, "1.0", "1.1")
    digest = entry_of(path)["builds"][refs[1]]["stages"]["leaf"]
    shared = entry_of(path)["builds"][refs[1]]["stages"]["_base"]
    assert entry_of(path)["builds"][refs[0]]["stages"]["_base"] == shared
    one = record.Content.parse("stage", f"leaf@{digest[:19]}")
    (revoked,) = record.revoke(path, one, reason="r", by="x")
    assert revoked[:3] == ("leaf", "local", refs[1])
    both = record.Content.parse("stage", f"_base@{shared}")
    assert len(record.revoke(path, both, reason="r", by="x")) == 2
    assert set(record.restore(path, both, by="x")) == {
        ("leaf", "local", refs[0], None),
        ("leaf", "local", refs[1], f"stage leaf@{digest[:19]}: r"),
    }


def test_build_that_contains_what_is_revoked_is_not_recorded(tmp_path: Path) -> None:
    """What is revoked by its contents stays out of use for builds that are still to come."""
    path, _ = made(tmp_path, "1.0")
    record.revoke(path, record.Content.parse("package", "idna==2.0"), reason="a hole", by="x")
    before = path.read_bytes()
    with pytest.raises(RevokedError) as caught:
        made(tmp_path, "2.0")
    (mark,) = json.loads(before)["revocations"]
    assert caught.value.message == (
        f"`leaf` contains package idna==2.0, which is revoked as of {mark['at']}: a hole"
    )
    assert path.read_bytes() == before


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


@pytest.mark.needs("git")
def test_who_and_from_which_commit_is_told(project: Path, command: Command) -> None:
    """History names the actor, provenance the commit of the specs and whether they differ."""
    git = ["git", "-c", "user.name=Ann", "-c", "user.email=ann@example.org", "-C", str(project)]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "specs"]):
        subprocess.run([*git, *arguments], check=True)
    commit = subprocess.run(
        [*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()
    who = {"GIT_AUTHOR_NAME": "Ann", "GIT_AUTHOR_EMAIL": "ann@example.org"}
    nobody = dict.fromkeys(("GITHUB_ACTOR", "GITLAB_USER_LOGIN", "TEMPLATE_ACTOR"), "")
    done = command("build", "light", "--target", "local", cwd=project, **who, **nobody)
    assert done.returncode == 0, done.stderr
    told = json.loads(command("show", "light", "--json", cwd=project).stdout)
    assert told["provenance"]["commit"] == commit
    assert told["provenance"]["dirty"] is False
    assert told["history"][-1]["by"] == "Ann <ann@example.org>"
    spec = project / "variants" / "light.toml"
    spec.write_text(spec.read_text().replace("'light'", "'light'\ndescription = 'x'", 1))
    again = command("build", "light", "--target", "local", cwd=project, TEMPLATE_ACTOR="a robot")
    assert again.returncode == 0, again.stderr
    told = json.loads(command("show", "light", "--json", cwd=project).stdout)
    assert told["provenance"]["dirty"] is True
    assert told["history"][-1]["by"] == "a robot"
    for arguments, said in (
        (["rollback", "light", "--reason", "slower"], "channel stable of light on local: "),
        (["promote", "light", "--channel", "prod"], "channel prod of light on local: nothing → "),
        (["promote", "light", "--channel", "prod"], "channel prod of light on local points at "),
        (["revoke", "light", "prod", "--reason", "bad"], "revoked as of 2"),
        (["restore", "light", "prod"], "restored: local:light@sha256-"),
    ):
        done = command(*arguments, cwd=project, **nobody)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(said)
    checked = command("doctor", "--json", cwd=project)
    assert "no" not in [one["state"] for one in json.loads(checked.stdout)]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["promote", "leaf", "nothing"], 46, "`leaf` has no build or channel `nothing` on `local`"),
        (["promote", "laef"], 42, "no template `laef`"),
        (["rollback", "leaf"], 46, "channel `stable` of `leaf` on `local` cannot go back 1 build"),
        (["rollback", "leaf", "stable", "--steps", "2"], 5, "REF and --steps both say how far"),
        (["rollback", "leaf", "--steps", "0"], 64, ""),
        (["revoke", "leaf", "stable", "--reason", " "], 5, "--reason is empty"),
        (["revoke", "leaf", "stable"], 64, ""),
        (["revoke", "--reason", "x"], 5, "no build is named"),
        (["revoke", "leaf", "--reason", "x"], 5, "which build of `leaf`?"),
        (["revoke", "leaf", "stable", "--package", "a==1", "--reason", "x"], 5, "not both"),
        (["revoke", "--package", "torch", "--reason", "x"], 5, "is not a package with its version"),
        (["revoke", "--package", "t==1; x", "--reason", "x"], 5, "not a package with its version"),
        (["revoke", "--stage", "_torch", "--reason", "x"], 5, "'_torch' is no stage of a build"),
        (["revoke", "--base", "", "--reason", "x"], 5, "'' is no base image"),
        (["revoke", "leaf", "stable", "--reason", "x", "--at", "soon"], 5, "'soon' is not a time"),
        (["restore", "leaf", "stable"], 46, "is not revoked"),
        (["restore", "--package", "a==1"], 46, "`package a==1` is not revoked"),
        (["adopt", "leaf", "a b"], 5, "'a b' is not the ID of a template"),
        (["adopt", "a b", "abc"], 5, "'a b' is not a template's name"),
        (["adopt", "leaf", "abc", "--target", "local"], 5, "target `local` is this machine"),
        (["adopt", "leaf", "abc"], 30, "with --unchecked"),
        (["show", "leaf", "nothing"], 46, "has no build or channel `nothing`"),
        (["diff", "nothing", "leaf"], 42, "`nothing` is neither a template nor a build"),
        (
            ["diff", "spec", "leaf"],
            5,
            "`spec` means the spec of the build before it, and there is none",
        ),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
def test_mistakes_are_told(
    tmp_path: Path, command: Command, arguments: list[str], code: int, said: str
) -> None:
    """Every mistake has its exit code and its words, and leaves the registry as it was."""
    path, _ = made(tmp_path, "1.0")
    before = path.read_bytes()
    done = command(*arguments, cwd=tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert said in done.stderr
    assert path.read_bytes() == before
