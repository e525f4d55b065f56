from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from builder import operations, record, registry
from builder.errors import NotBuiltError, RevokedError
from builder.project import Project
from builder.registry.model import Build
from tests.conftest import Command
from tests.support.records import entry_of, faultless, made, typed_entry_of


def test_build_channel_and_template_are_removed(tmp_path: Path, command: Command) -> None:
    """A build, a channel and then all of a template go; the history has all of it, and `doctor`
    and `repair` find nothing wrong."""
    path, (old, new) = made(tmp_path, "1.0", "1.1")
    before = len(entry_of(path)["history"])

    def remove(*arguments: str, code: int = 0) -> str:
        done = command("remove", *arguments, "--yes", cwd=tmp_path)
        assert done.returncode == code, done.stderr
        assert faultless(path)
        return done.stdout or done.stderr

    assert remove(f"leaf@{new}", code=5) == (
        "error: channel `stable` of `leaf` on `local` points at a build to be removed\n\n"
        "hint: `template-builder remove leaf --channel stable --target local` removes the channel first\n"
    )
    assert remove("leaf", code=5).startswith("error: channel `stable` of `leaf` on `local` points")
    assert remove(f"leaf@{old}", "--reason", "old") == f"removed: build {old} of leaf on local\n"
    assert list(entry_of(path)["builds"]) == [new]
    assert registry.resolve("leaf", path=path) == new
    event = entry_of(path)["history"][-1]
    assert (event["action"], event["build"], event["reason"]) == ("remove", old, "old")
    assert remove("leaf", "--channel", "stable") == "removed: channel stable of leaf on local\n"
    assert remove("leaf") == f"removed: build {new} of leaf on local\n"
    assert (entry_of(path)["builds"], entry_of(path)["channels"]) == ({}, {})
    assert len(entry_of(path)["history"]) == before + 3
    with pytest.raises(
        NotBuiltError, match="`leaf` is not built for target `local`; it is built for no"
    ):
        registry.resolve("leaf", target="local", path=path)
    made(tmp_path, "1.1")
    assert registry.resolve("leaf", path=path) == new
    assert faultless(path)
    told = remove(f"leaf@{new}", "--channel", "stable")
    assert (
        told == f"removed: channel stable of leaf on local\nremoved: build {new} of leaf on local\n"
    )


@pytest.mark.slow
def test_removal_asks(tmp_path: Path, command: Command) -> None:
    """Without a terminal and without --yes nothing is removed, and the error says what would be."""
    path, (old, _) = made(tmp_path, "1.0", "1.1")
    before = path.read_bytes()
    for arguments in ([], ["--json"]):
        done = command("remove", f"leaf@{old}", *arguments, cwd=tmp_path)
        assert done.returncode == 6
        assert done.stderr == (
            f"error: build {old} of leaf on local would be removed, but there is no terminal to ask"
            " at\n\nhint: `--yes` removes it without asking\n"
        )
    # What cannot be removed is said before anybody is asked.
    needed = command("remove", "leaf", cwd=tmp_path)
    assert needed.returncode == 5
    assert "channel `stable` of `leaf` on `local` points at a build to be removed" in needed.stderr
    for wrong, code in ((("leaf@nothing",), 46), (("laef",), 42), (("leaf", "--channel", "x"), 44)):
        assert command("remove", *wrong, "--yes", cwd=tmp_path).returncode == code
    assert path.read_bytes() == before


def test_revoked_build_is_not_removed(tmp_path: Path, command: Command) -> None:
    """A revoked build stays, also where it is to be revoked later only: the same could be built
    again, and nothing would say what was wrong with it. Restored, it can be removed."""
    path, (old, new) = made(tmp_path, "1.0", "1.1")
    for at in (None, "2999-01-01T00:00:00Z"):
        record.revoke(path, ("leaf", "local", old), reason="bad", by="x", at=at)
        revoked = typed_entry_of(path).builds[old].revocation
        done = command("remove", f"leaf@{old}", "--yes", cwd=tmp_path)
        assert (done.returncode, done.stderr) == (
            5,
            f"error: build `{old}` of `leaf` on `local` is {revoked}; without its record, the same"
            " build could be made and used again\n\nhint: `template-builder gc` frees its space;"
            f" if it may be used again: `template-builder restore leaf {old} --target local`\n",
        )
        assert command("restore", "leaf", old, "--target", "local", cwd=tmp_path).returncode == 0
    record.revoke(path, record.Content.parse("package", "idna==1.0"), reason="a hole", by="x")
    record.remove(path, record.Removal(name="leaf", target="local", builds=(old,)), by="x")
    with pytest.raises(RevokedError, match="a hole"):
        made(tmp_path, "1.0")
    assert list(entry_of(path)["builds"]) == [new]


def test_lost_record_that_is_put_back_is_revoked_still(tmp_path: Path) -> None:
    """A record that was lost, and that its history says was revoked, is put back as revoked."""
    path, (ref,) = made(tmp_path, "1.0")
    record.revoke(path, ("leaf", "local", ref), reason="bad", by="x")
    data = json.loads(path.read_text())
    fields = data["templates"]["leaf"]["local"]["builds"].pop(ref)
    path.write_text(json.dumps(data))
    kept = Build.from_json({k: v for k, v in fields.items() if not k.startswith("revo")})
    record.put_back(
        path, record.Change(name="leaf", target="local", by="x"), ref, kept, channels=["stable"]
    )
    with pytest.raises(RevokedError, match="revoked: bad"):
        registry.resolve("leaf", path=path)
    record.restore(path, ("leaf", "local", ref), by="x")
    assert registry.resolve("leaf", path=path) == ref


def test_merge_of_a_removal_is_repaired(tmp_path: Path) -> None:
    """Where one side of a merge has removed a build and its channel, and the other has used and
    held them, one repair makes the registry fit, and the hold that is left can be lifted."""
    path, (old, new) = made(tmp_path, "1.0", "1.1")
    how: dict[str, Any] = {"name": "leaf", "target": "local", "by": "x"}
    common = path.read_text()
    record.remove(
        path,
        record.Removal(name="leaf", target="local", builds=(new,), channels=("stable",)),
        by="x",
    )
    merged = json.loads(path.read_text())
    path.write_text(common)
    record.move(path, record.Change(**how, channel="beta"), new, action="promote")
    record.move(path, record.Change(**how, channel="stable"), old, action="rollback")
    entry, other = merged["templates"]["leaf"]["local"], entry_of(path)
    known = [event["chain"] for event in entry["history"]]
    entry["history"] += [event for event in other["history"] if event["chain"] not in known]
    entry["holds"] = other["holds"]
    path.write_text(json.dumps(merged))
    mended, left = record.repair(path, by="x")
    assert left == []
    gone = [text for text in mended if text.endswith(": removed, as its history says")]
    assert len(gone) == 1
    assert f"the record of build `{new}` is gone" in gone[0]
    assert faultless(path)
    assert entry_of(path)["channels"] == {"stable": old}
    record.remove(path, record.Removal(name="leaf", target="local", channels=("stable",)), by="x")
    data = json.loads(path.read_text())
    data["templates"]["leaf"]["local"]["holds"] = other["holds"]
    path.write_text(json.dumps(data))
    (tmp_path / "variants").mkdir(exist_ok=True)
    _, hold = operations.unhold(
        Project.find(tmp_path),
        operations.ChannelRequest(name="leaf", channel="stable", target="local"),
    )
    assert hold is not None
    assert "holds" not in entry_of(path)
    assert faultless(path)


def test_removal_and_revocation_merged_lose_no_revocation(tmp_path: Path) -> None:
    """A build that one side of a merge has removed and the other revoked is not taken for removed:
    its record is missing, which `doctor` says."""
    path, (old, _) = made(tmp_path, "1.0", "1.1")
    common = path.read_text()
    record.revoke(path, ("leaf", "local", old), reason="bad", by="x")
    revoked = entry_of(path)["history"][-1]
    path.write_text(common)
    record.remove(path, record.Removal(name="leaf", target="local", builds=(old,)), by="x")
    data = json.loads(path.read_text())
    data["templates"]["leaf"]["local"]["history"].append(revoked)
    path.write_text(json.dumps(data))
    for _ in range(2):
        _, left = record.repair(path, by="x")
        assert [f"the record of build `{old}` is gone" in text for text in left] == [True]


def test_target_whose_builds_were_removed_is_not_meant(tmp_path: Path) -> None:
    """A template that is left on one target alone resolves there, without its being named."""
    path, (ref,) = made(tmp_path, "1.0")
    record.adopt(
        path,
        record.Change(name="leaf", target="e2b", by="x", channel="stable"),
        "abc",
        Build(template_id="abc"),
    )
    assert registry.resolve("leaf", path=path) == "abc"
    record.remove(
        path,
        record.Removal(name="leaf", target="e2b", builds=("abc",), channels=("stable",)),
        by="x",
    )
    assert registry.resolve("leaf", path=path) == ref
