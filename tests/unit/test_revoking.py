from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from builder import record, registry
from builder.errors import RevokedError
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
        f" bad now; builds that may be used: `{old}`\n"
    )
