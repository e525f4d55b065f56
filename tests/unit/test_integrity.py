from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builder import record, registry
from builder.errors import RegistryError
from builder.registry import history
from builder.registry.chain import checksum
from builder.registry.model import Build
from tests.conftest import ROOT, Command
from tests.support.records import edited, entry_of, faults, made


def test_what_this_program_writes_has_no_faults(tmp_path: Path) -> None:
    """Recording, moving, revoking and restoring leave a registry that fits to its history."""
    path, refs = made(tmp_path, "1.0", "1.1")
    record.revoke(path, ("leaf", "local", refs[0]), reason="r", by="x")
    record.restore(path, ("leaf", "local", refs[0]), by="x")
    record.adopt(
        path,
        record.Change(name="a", target="e2b", by="x", channel="c"),
        "abc",
        Build(template_id="abc"),
    )
    assert faults(path) == []


def _other(entry: dict[str, Any]) -> str:
    """The build that `stable` does not point at."""
    (ref,) = set(entry["builds"]) - {entry["channels"]["stable"]}
    return str(ref)


EDITS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a package's version": (
        lambda entry: next(iter(entry["builds"].values()))["packages"].update(idna="9"),
        "is not what was recorded: its checksum differs",
    ),
    "a record with a checksum made anew": (
        lambda entry: [
            fields.update(digest="sha256:0", checksum=checksum(fields | {"digest": "sha256:0"}))
            for fields in entry["builds"].values()
        ],
        "does not have the checksum in its history",
    ),
    "a channel": (
        lambda entry: entry["channels"].update(stable=_other(entry)),
        "channel `stable` points at `{first}`; its history says `{last}`",
    ),
    "a new channel": (
        lambda entry: entry["channels"].update(prod=_other(entry)),
        "channel `prod` points at `{first}`; its history says nothing",
    ),
    "a channel to nowhere": (
        lambda entry: entry["channels"].update(stable="local:gone"),
        "channel `stable` points at `local:gone`, which is not a build",
    ),
    "a channel that is removed": (
        lambda entry: entry["channels"].clear(),
        "channel `stable` points at nothing; its history says `{last}`",
    ),
    "a build that is removed": (
        lambda entry: entry["builds"].pop(max(entry["builds"])),
        "is gone",
    ),
    "a build that is added": (
        lambda entry: entry["builds"].update(x={"template_id": "x", "origin": "adopted"}),
        "build `x` is not in its history",
    ),
    "an event that is edited": (
        lambda entry: entry["history"][0].update(by="somebody else"),
        "event 1 of its history (build at",
    ),
    "an event that is removed": (
        lambda entry: entry["history"].pop(0),
        "event 1 of its history (build at",
    ),
    "events in another order": (
        lambda entry: entry["history"].reverse(),
        "does not follow from the one before it: edited, lost, or merged from two sides",
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_hand_edit_is_found_and_repaired(tmp_path: Path, name: str) -> None:
    """Every kind of edit by hand is told with what was edited, and can be repaired or is told as
    lost."""
    path, refs = made(tmp_path, "1.0", "1.1")
    change, said = EDITS[name]
    edited(path, change)
    told = faults(path)
    expected = said.format(first=refs[0], last=refs[1])
    assert any(expected in one for one in told), told
    _, left = record.repair(path, by="a fixer")
    assert left == faults(path)
    if name == "a build that is removed":
        assert left
    else:
        assert left == []
        registry.load(path).checked()


def test_revocation_that_was_edited_away_comes_back(tmp_path: Path) -> None:
    """A repair keeps a record as it is, but not a revoked one that somebody made usable by hand."""
    path, refs = made(tmp_path, "1.0")
    record.revoke(path, ("leaf", "local", refs[0]), reason="dangerous", by="x")
    edited(
        path,
        lambda entry: [entry["builds"][refs[0]].pop(key) for key in ("revoked", "revocations")],
    )
    record.repair(path, by="a fixer")
    assert entry_of(path)["builds"][refs[0]]["revoked"] == "dangerous"
    assert faults(path) == []


@pytest.mark.slow
@pytest.mark.needs("git")
def test_doctor_tells_the_key_that_was_edited(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the last commit at hand, the finding names the very key, its old and its new value."""
    path, refs = made(tmp_path, "1.0")
    git = ["git", "-c", "user.name=A", "-c", "user.email=a@b", "-C", str(tmp_path)]
    for arguments in (["init", "-q"], ["add", "registry.json"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *arguments], check=True)
    edited(path, lambda entry: entry["builds"][refs[0]]["packages"].update(idna="6.6"))
    done = command("doctor", cwd=tmp_path)
    assert done.returncode == RegistryError.exit_code
    assert 'since the last commit: packages.idna: "1.0" → "6.6"' in done.stderr
    assert "`template-builder registry repair`" in done.stderr
    repaired = command("registry", "repair", cwd=tmp_path, TEMPLATE_ACTOR="Ann")
    assert repaired.stdout.endswith("kept as it is now\n")
    assert entry_of(path)["history"][-1]["by"] == "Ann"
    assert command("doctor", cwd=tmp_path).returncode == 0
    assert command("registry", "repair", cwd=tmp_path).stdout == "nothing to repair\n"


@pytest.mark.needs("git")
def test_two_branches_merge_where_they_differ(tmp_path: Path) -> None:
    """Branches that record builds of different templates merge in git without a conflict, and the
    merged file has no fault."""
    git = ["git", "-c", "user.name=A", "-c", "user.email=a@b", "-C", str(tmp_path)]

    def run(*arguments: str) -> str:
        return subprocess.run([*git, *arguments], check=True, capture_output=True, text=True).stdout

    path = tmp_path / "registry.json"

    def adopt(name: str, ref: str) -> None:
        record.adopt(
            path,
            record.Change(name=name, target="e2b", by="x", channel="stable"),
            ref,
            Build(template_id=ref),
        )

    for name in ("a", "b", "c"):
        adopt(name, f"{name}1")
    run("init", "-q", "-b", "main")
    run("add", "registry.json")
    run("commit", "-qm", "start")
    run("checkout", "-qb", "other")
    adopt("a", "a2")
    run("commit", "-qam", "a2")
    run("checkout", "-q", "main")
    adopt("c", "c2")
    run("commit", "-qam", "c2")
    run("merge", "-q", "other")
    assert registry.resolve("a", path=path) == "a2"
    assert registry.resolve("c", path=path) == "c2"
    assert faults(path) == []


def test_two_sides_of_one_template_are_merged_by_repair(tmp_path: Path) -> None:
    """Where both branches changed the same template and somebody kept both sides' events, a repair
    puts them in the order of time, and no event is lost."""
    path, refs = made(tmp_path, "1.0", "1.1")
    base = json.loads(path.read_text())
    sides: list[dict[str, Any]] = []
    for reason in ("ours", "theirs"):
        path.write_text(json.dumps(base))
        record.move(
            path,
            record.Change(name="leaf", target="local", by="x", reason=reason, channel="prod"),
            refs[len(sides)],
            action="promote",
        )
        sides.append(entry_of(path))
    merged = [*sides[0]["history"], sides[1]["history"][-1]]
    edited(path, lambda entry: entry.update(history=merged))
    assert any("does not follow" in one for one in faults(path))
    mended, left = record.repair(path, by="x")
    assert mended
    assert left == []
    reasons = [event.get("reason") for event in entry_of(path)["history"]]
    assert {"ours", "theirs"} <= set(reasons)


def test_marks_of_a_merge_are_told_by_line(tmp_path: Path, command: Command) -> None:
    """A file with git's conflict marks is refused with the line of the first one."""
    path, _ = made(tmp_path, "1.0")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:4], "<<<<<<< ours", *lines[4:]]))
    done = command("list", cwd=tmp_path)
    assert done.returncode == 40
    assert f"{path}:5: unresolved merge conflict" in done.stderr


def test_key_that_is_there_twice_is_refused(tmp_path: Path, command: Command) -> None:
    """A template that a merge has left twice is an error, not the one that happens to come last."""
    path, _ = made(tmp_path, "1.0")
    text = path.read_text()
    block = text[text.index('    "leaf"') : text.index("\n  },\n")]
    path.write_text(text.replace(block, f"{block},\n{block}"))
    done = command("doctor", cwd=tmp_path)
    assert done.returncode == 40
    assert "`leaf` appears twice in one table, as after a merge" in done.stderr


@pytest.mark.parametrize("seed", range(20))
def test_any_edit_of_a_record_is_found(tmp_path: Path, seed: int) -> None:
    """Whatever single value of a build, channel or event is changed, there is a fault."""
    path, _ = made(tmp_path, "1.0", "1.1")
    chance = random.Random(seed)

    def spoil(value: Any) -> Any:
        if isinstance(value, dict) and value:
            key = chance.choice(sorted(value))
            return value | {key: spoil(value[key])}
        if isinstance(value, list) and value:
            at = chance.randrange(len(value))
            return [*value[:at], spoil(value[at]), *value[at + 1 :]]
        return f"{value}?"

    edited(path, lambda entry: entry.update(spoil(dict(entry))))
    try:
        found = list(history.faults(registry.load(path).checked().templates))
    except RegistryError:
        return  # its shape gave it away
    assert found


def test_committed_registry_fits_to_its_history(command: Command) -> None:
    """`doctor` finds nothing wrong in a fresh clone of this repository."""
    found = registry.load(ROOT / "registry.json").checked()
    assert [str(fault) for fault in history.faults(found.templates)] == []
    done = command("doctor", "--project", str(ROOT))
    assert done.returncode == 0, done.stderr
