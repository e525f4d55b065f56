from __future__ import annotations

import sys
from pathlib import Path

import pytest

from builder import operations, record
from builder.errors import UnknownBuildError
from builder.project import Project
from builder.registry import history
from builder.system.events import discard
from builder.targets.local.place import MANIFEST
from tests.conftest import Command
from tests.support.records import made, typed_entry_of


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
        "channel `stable` of `leaf` on `local` cannot go back 1 build; usable builds that it pointed at before: none"
    )


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
        (["revoke", "leaf", "stable", "--package", "a==1", "--reason", "x"], 5, "are both named"),
        (["revoke", "--package", "torch", "--reason", "x"], 5, "is not a package with a version"),
        (["revoke", "--package", "t==1; x", "--reason", "x"], 5, "not a package with a version"),
        (["revoke", "--stage", "_torch", "--reason", "x"], 5, "'_torch' is not a stage of a build"),
        (["revoke", "--base", "", "--reason", "x"], 5, "'' is not a base image"),
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
