from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder import registry
from builder.operations.retention import Keep, needed
from builder.registry.model import Entry
from builder.system import store
from builder.targets.local import leftovers
from tests.conftest import Command
from tests.support.records import environment, made


def collected(command: Command, folder: Path, cache: Path, *arguments: str) -> dict[str, Any]:
    done = command(
        "gc", "--target", "local", "--yes", "--json", *arguments, cwd=folder,
        TEMPLATE_BUILDER_CACHE_DIR=str(cache),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_what_nothing_needs_goes_and_is_shown_first(
    tmp_path: Path, own_cache: Path, command: Command
) -> None:
    """A dry run names what would go with its size and removes nothing; then exactly that goes, and
    the registry still has every record."""
    path, refs = made(tmp_path, "1", "2", "3", "4", "5")
    places = [environment(own_cache, ref) for ref in refs]
    before = path.read_bytes()
    few = ("--keep", "2", "--history", "1")
    dry = collected(command, tmp_path, own_cache, "--dry-run", *few)
    assert [one["subject"] for one in dry["found"]] == [str(place) for place in sorted(places[:3])]
    assert dry["size_bytes"] == 15
    assert all(place.is_dir() for place in places)
    collected(command, tmp_path, own_cache, *few)
    assert [place.is_dir() for place in places] == [False, False, False, True, True]
    assert path.read_bytes() == before
    assert collected(command, tmp_path, own_cache, *few)["found"] == []
    told = command(
        "gc", "--target", "local", cwd=tmp_path, TEMPLATE_BUILDER_CACHE_DIR=str(own_cache)
    )
    assert told.stdout == "nothing to remove on local\n"


def test_fetched_files_that_no_environment_has_go(
    tmp_path: Path, own_cache: Path, command: Command
) -> None:
    """A fetched file goes if no environment is linked to it and it was not used lately; so does what
    an interrupted transfer left behind."""
    made(tmp_path, "1")
    kept = []
    for content in (b"unused", b"linked", b"used today"):
        with store.incoming() as incoming:
            incoming.write(content)
            kept.append(incoming.keep())
    unused, linked, used = kept
    os.link(linked, own_cache / "environment")
    part = store.folder() / ".0.part"
    part.write_bytes(b"half")
    for path in (unused, linked, part):
        os.utime(path, (1, 1))
    collectable = collected(command, tmp_path, own_cache)["found"]
    days = f"{int(time.time() / 86400):,}"
    assert [
        (file["kind"], file["subject"], file["size_bytes"], file["why"]) for file in collectable
    ] == [
        ("download", str(unused), 6, f"no environment has it, not used for {days} days"),
        ("download", str(part), 4, f"no environment has it, not used for {days} days"),
    ]
    assert [path.exists() for path in (unused, part, linked, used)] == [False, False, True, True]


def test_what_a_channel_can_go_back_to_stays(
    tmp_path: Path, own_cache: Path, command: Command
) -> None:
    """Builds within the window of a channel's history stay, however old they are."""
    _, refs = made(tmp_path, "1", "2", "3", "4", "5")
    places = [environment(own_cache, ref) for ref in refs]
    collected(command, tmp_path, own_cache, "--keep", "1", "--history", "3")
    assert [place.is_dir() for place in places] == [False, True, True, True, True]


def test_what_is_young_or_was_used_stays(tmp_path: Path, own_cache: Path, command: Command) -> None:
    """What was made or used within the protect window stays, whatever else is true of it."""
    _, refs = made(tmp_path, "1", "2", "3", "4")
    environment(own_cache, refs[0], days=2)
    used = environment(own_cache, refs[1])
    (used / "used").touch()
    gone = environment(own_cache, refs[2])
    few = ("--keep", "1", "--history", "0", "--protect-days", "3")
    found = collected(command, tmp_path, own_cache, *few)["found"]
    assert [one["subject"] for one in found] == [str(gone)]


def test_what_runs_stays(tmp_path: Path, own_cache: Path, command: Command) -> None:
    """An environment that a process runs in is not taken, and neither is one that is being made."""
    _, refs = made(tmp_path, "1", "2")
    place = environment(own_cache, refs[0])
    few = ("--keep", "1", "--history", "0")
    code = "import time; time.sleep(60)"
    process = subprocess.Popen([str(place / "bin" / "python"), "-c", code])
    try:
        assert collected(command, tmp_path, own_cache, *few)["found"] == []
    finally:
        process.kill()
        process.wait()
    from builder.system.files import exclusive

    with exclusive(own_cache / "locks" / f"{place.name}.lock"):
        found = collected(command, tmp_path, own_cache, *few)["found"]
    assert [one["kept"] for one in found] == ["it is being made"]
    assert place.is_dir()


def test_what_another_project_needs_stays(
    tmp_path: Path, own_cache: Path, command: Command
) -> None:
    """An environment that a second registry of this machine needs is left alone."""
    (tmp_path / "here").mkdir()
    made(tmp_path / "here", "1")
    other, refs = made(tmp_path / "there", "2")
    place = environment(own_cache, refs[0])
    leftovers.note_need(place.name.replace("-", ":", 1), str(other))
    assert collected(command, tmp_path / "here", own_cache)["found"] == []


def test_what_is_not_known_to_be_unneeded_is_kept_and_named(
    tmp_path: Path, own_cache: Path, command: Command
) -> None:
    """An environment that a registry may need which was renamed, is on a disk that is away, or
    cannot be read, is kept and named, with the command that releases it."""
    (tmp_path / "here").mkdir()
    made(tmp_path / "here", "1")
    other, refs = made(tmp_path / "there", "2")
    place = environment(own_cache, refs[0])
    leftovers.note_need(place.name.replace("-", ":", 1), str(other))
    (tmp_path / "there").rename(tmp_path / "renamed")
    (found,) = collected(command, tmp_path / "here", own_cache)["found"]
    release = f"if it is gone for good: `template-builder gc --forget {other}`"
    assert found["kept"] == f"{other}, which may need it, is not there; {release}"
    assert place.is_dir()
    other.parent.mkdir()
    other.write_text("{ broken")
    (found,) = collected(command, tmp_path / "here", own_cache)["found"]
    assert found["kept"] == f"{other}, which may need it, cannot be read; {release}"
    cache = str(own_cache)
    told = command(
        "gc", "--target", "local", "--yes", cwd=tmp_path / "here", TEMPLATE_BUILDER_CACHE_DIR=cache
    )
    assert told.stdout == (
        f"nothing to remove on local\nkept: environment {found['identity']}: {found['kept']}\n"
    )
    assert place.is_dir()
    few = ("--forget", str(tmp_path / "there"))
    (found,) = collected(command, tmp_path / "here", own_cache, *few)["found"]
    assert (found["kept"], place.exists()) == (None, False)


@pytest.mark.slow
def test_nothing_goes_without_a_yes(tmp_path: Path, own_cache: Path, command: Command) -> None:
    """Where nobody can be asked, `gc` without `--yes` is an error and removes nothing, with `--json`
    or without."""
    _, refs = made(tmp_path, "1", "2")
    place = environment(own_cache, refs[0])
    few = ("gc", "--target", "local", "--keep", "1", "--history", "0")
    variables = {"TEMPLATE_BUILDER_CACHE_DIR": str(own_cache)}
    done = command(*few, cwd=tmp_path, **variables)
    assert done.returncode == 6
    assert done.stderr.endswith(
        "error: 1 item on local would be removed, but there is no terminal to ask at\n\n"
        "hint: `--yes` removes them without asking, `--dry-run` lists them\n"
    )
    done = command(*few, "--json", cwd=tmp_path, **variables)
    assert done.returncode == 6
    assert "UnconfirmedError" in done.stdout + done.stderr
    assert place.is_dir()
    assert command(*few, "--dry-run", cwd=tmp_path, **variables).returncode == 0
    assert command(*few, "--yes", cwd=tmp_path, **variables).returncode == 0
    assert not place.exists()


def test_killed_removal_leaves_nothing_half(tmp_path: Path, own_cache: Path) -> None:
    """What a killed clean-up has left is not found as an environment, and goes with the next
    build."""
    from builder.targets.local.place import find

    _, refs = made(tmp_path, "1")
    place = environment(own_cache, refs[0])
    place.rename(place.with_name(f".making-{place.name}-1234"))
    assert find(place.name.replace("-", ":", 1)) is None
    leftovers.sweep()
    assert list((own_cache / "environments").iterdir()) == []


builds = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=2),
    st.fixed_dictionaries(
        {"built_at": st.sampled_from(["2026-01-01", "2026-02-01", "2026-03-01"])},
        optional={"revoked": st.just("bad")},
    ),
    min_size=1,
    max_size=6,
)


@given(builds=builds, data=st.data(), newest=st.integers(1, 3), steps=st.integers(0, 3))
def test_the_last_good_build_is_always_needed(
    builds: dict[str, Any], data: st.DataObject, newest: int, steps: int
) -> None:
    """Whatever was built, revoked and pointed at: what channels point at is kept, and where any
    build may be used, so is the one of them that was recorded last."""
    order = data.draw(st.permutations(sorted(builds)))
    channels = data.draw(
        st.dictionaries(st.sampled_from(["stable", "beta"]), st.sampled_from(sorted(builds)))
    )
    recorded = [{"action": "build", "build": ref} for ref in order]
    entry = {"builds": builds, "channels": channels, "history": recorded}
    kept = needed(Entry.from_json(entry), Keep(newest=newest, steps=steps))
    assert set(channels.values()) <= set(kept)
    good = [ref for ref, fields in builds.items() if "revoked" not in fields]
    if good:
        assert max(good, key=order.index) in kept
    assert len(kept) >= min(newest, len(builds))


def test_record_of_a_removed_build_can_be_told_from_one_that_is_here(
    tmp_path: Path, own_cache: Path, command: Command
) -> None:
    """After a clean-up `rollback` to what was removed fails, says why, and nothing moves."""
    path, refs = made(tmp_path, "1", "2")
    environment(own_cache, refs[1])
    done = command("rollback", "leaf", cwd=tmp_path, TEMPLATE_BUILDER_CACHE_DIR=str(own_cache))
    assert done.returncode == 20
    assert "is not on this machine" in done.stderr
    assert registry.resolve("leaf", path=path) == refs[1]
