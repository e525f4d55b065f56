from __future__ import annotations

import itertools
import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from builder import record, registry
from builder.errors import RevokedError, UnknownBuildError
from builder.registry import history
from builder.registry.model import Build, Contents
from tests.conftest import Command
from tests.support.records import entry_of, made, typed_entry_of

PAST, EARLIER, LATER = "2020-01-01T00:00:00Z", "2090-01-01T00:00:00Z", "2099-01-01T00:00:00Z"


def revoked_as_of(path: Path, ref: str) -> str | None:
    return typed_entry_of(path).builds[ref].revoked_since


@pytest.mark.parametrize("content", [None, "idna==1.0"], ids=["build", "package"])
@pytest.mark.parametrize("times", list(itertools.permutations([None, PAST, EARLIER, LATER], 3)))
def test_the_earliest_revocation_stands(
    tmp_path: Path, content: str | None, times: tuple[str | None, ...]
) -> None:
    """However often and in whatever order the same is revoked, the earliest time stands, with its
    reason, and one `restore` lifts it."""
    path, (ref,) = made(tmp_path, "1.0")
    subject: Any = ("leaf", "local", ref)
    if content:
        subject = record.Content.parse("package", content)
    for at in times:
        record.revoke(path, subject, reason=f"from {at}", by="x", at=at)
    first = None if None in times else min(str(at) for at in times)
    fields = entry_of(path)["builds"][ref]
    assert fields["revoked"] == ("package idna==1.0: " if content else "") + f"from {first}"
    assert fields.get("revoked_at") == first
    for one in json.loads(path.read_text()).get("revocations", []):
        assert (one["reason"], one.get("from")) == (f"from {first}", first)
    if first in (None, PAST):
        with pytest.raises(RevokedError):
            registry.resolve("leaf", path=path)
    else:
        assert registry.resolve("leaf", path=path) == ref
    record.restore(path, subject, by="x")
    assert "revoked" not in entry_of(path)["builds"][ref]
    assert registry.resolve("leaf", path=path) == ref


def test_later_revocation_of_one_kind_leaves_the_other_in_effect(tmp_path: Path) -> None:
    """A revocation still to come, of a package in it, does not put a revoked build back."""
    path, (ref,) = made(tmp_path, "1.0")
    record.revoke(path, ("leaf", "local", ref), reason="bad", by="x")
    package = record.Content.parse("package", "idna==1.0")
    record.revoke(path, package, reason="a hole", by="x", at=LATER)
    with pytest.raises(RevokedError, match=r"is revoked as of \S+: bad;"):
        registry.resolve("leaf", path=path)
    record.restore(path, ("leaf", "local", ref), by="x")
    assert registry.resolve("leaf", path=path) == ref
    assert revoked_as_of(path, ref) == LATER


@pytest.mark.parametrize(
    "by_hand", [{"revoked": "bad"}, {"revoked": "bad", "revoked_at": "soon"}], ids=str
)
def test_what_somebody_revoked_by_hand_stays_revoked(
    tmp_path: Path, by_hand: dict[str, str]
) -> None:
    """A later `revoke` does not lift a revocation that was written into the file by hand."""
    path, (ref,) = made(tmp_path, "1.0")

    def edit(data: Contents) -> None:
        builds = data.templates["leaf"]["local"].builds
        builds[ref] = Build.from_json(builds[ref].to_json() | by_hand)

    record.update(path, edit)
    record.revoke(path, ("leaf", "local", ref), reason="worse", by="x", at=LATER)
    with pytest.raises(RevokedError, match="is revoked: bad;"):
        registry.resolve("leaf", path=path)


@pytest.mark.slow
def test_when_is_told_everywhere(tmp_path: Path, command: Command) -> None:
    """`revoke`, `list`, `show` and the error say from when, also of what is still to come."""
    path, (old, new) = made(tmp_path, "1.0", "1.1")
    done = command("revoke", "leaf", "stable", "--reason", "soon", "--at", "2090", cwd=tmp_path)
    assert done.returncode == 5
    command("revoke", "leaf", "stable", "--reason", "soon", "--at", "2090-01-01", cwd=tmp_path)
    again = command("revoke", "leaf", new, "--reason", "x", "--at", "2099-01-01", cwd=tmp_path)
    assert again.stdout == (
        f"revoked as of {EARLIER}: {new} (leaf on local)\n"
        f"note: it was already revoked, which stays in effect until `template-builder restore`, not {LATER}\n"
        "channel stable of leaf on local points at it, and will fail; move it with `template-builder"
        " rollback leaf --channel stable --target local` or a new build\n"
    )
    assert f"to be revoked as of {EARLIER}: soon" in command("list", cwd=tmp_path).stdout
    assert f"\nTo be revoked as of {EARLIER}: soon\n" in command("show", "leaf").stdout
    (row,) = json.loads(command("list", "--json").stdout)
    assert (row["revoked"], row["revoked_as_of"]) == ("soon", EARLIER)
    command("revoke", "leaf", new, "--reason", "bad now", cwd=tmp_path)
    at = revoked_as_of(path, new)
    later = command("revoke", "leaf", new, "--reason", "x", "--at", "2099-01-01", cwd=tmp_path)
    assert "points at it, and fails; move it with `template-builder rollback leaf" in later.stdout
    assert f"revoked as of {at}: bad now" in command("list", cwd=tmp_path).stdout
    assert f"\nRevoked as of {at}: bad now\n" in command("show", "leaf").stdout
    assert command("resolve", "leaf").stderr.startswith(
        f"error: build `{new}` of template `leaf` on target `local` is revoked as of {at}:"
        f" bad now; usable builds: `{old}`\n"
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


def test_revocation_in_the_future_has_effect_from_then_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until its time a build resolves; from that second on it fails closed with the reason."""
    path, refs = made(tmp_path, "1.0")
    then = time.time() + 3600
    soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(then))
    record.revoke(path, ("leaf", "local", refs[0]), reason="soon bad", by="x", at=soon)
    assert registry.resolve("leaf", path=path) == refs[0]
    monkeypatch.setattr("builder.registry.values.time", SimpleNamespace(time=lambda: then))
    with pytest.raises(RevokedError) as caught:
        registry.resolve("leaf", path=path)
    assert caught.value.message == (
        f"build `{refs[0]}` of template `leaf` on target `local` is revoked as of {soon}: soon bad;"
        " usable builds: none"
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
