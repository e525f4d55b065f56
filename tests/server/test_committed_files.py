"""What a team commits: no byte differs that nobody has changed, and nothing of one machine is in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.targets.local import place as places_here
from tests.conftest import Command
from tests.support.clouds import Built, Place
from tests.support.e2b_server import Server

pytestmark = pytest.mark.network
BUILD = ("build", "one", "--frozen", "--target", "local")
FAILS = "[[verify]]\nname = 'odd'\ncode = 'print(4)'\nstdout = '5'\n"


@pytest.fixture
def machine(
    places: Callable[[str], Place], command: Command, byte_code: Path
) -> Callable[..., Path]:
    """A machine with a copy of the project and environments of its own, on which `one` was built."""

    def build(name: str, registry: Path | None = None) -> Path:
        folder = places(name).folder
        cache_of(folder).mkdir()
        (cache_of(folder) / "byte-code").symlink_to(byte_code)
        if registry:
            shutil.copy2(registry, folder / "registry.json")
        run(command, folder, *BUILD)
        return folder

    return build


def cache_of(folder: Path) -> Path:
    return folder.with_name(f"cache-{folder.name}")


def run(command: Command, folder: Path, *arguments: str, code: int = 0) -> str:
    cache = str(cache_of(folder))
    done = command(*arguments, cwd=folder, TEMPLATE_BUILDER_CACHE_DIR=cache)
    assert done.returncode == code, done.stderr
    return done.stdout


def git(folder: Path, *arguments: str) -> str:
    variables = {f"GIT_{who}_{what}": "x@x" for who in ("AUTHOR", "COMMITTER")
                 for what in ("NAME", "EMAIL")}  # fmt: skip
    done = subprocess.run(
        ["git", *arguments], cwd=folder, check=True, capture_output=True, text=True,
        env=os.environ | variables,
    )  # fmt: skip
    return done.stdout


@pytest.mark.slow
def test_builds_of_what_is_recorded_change_no_byte(
    machine: Callable[..., Path], command: Command
) -> None:
    """A build by force, and a build on a second machine, of what is recorded leave the registry as
    it is, to the byte; both machines have what they have measured themselves."""
    first = machine("first")
    before = (first / "registry.json").read_bytes()
    text = before.decode()
    assert '"seconds"' not in text
    assert '"size_bytes"' not in text
    assert "ipykernel " not in text
    run(command, first, *BUILD, "--force")
    assert (first / "registry.json").read_bytes() == before
    second = machine("second", first / "registry.json")
    assert (second / "registry.json").read_bytes() == before
    shown = [
        json.loads(run(command, folder, "show", "one", "--json")) for folder in (first, second)
    ]
    for fields in shown:
        assert set(fields["verified"]["seconds"]["first_use"]) == {"cold", "disk", "memory"}
        assert fields["size_bytes"] > 1 << 20
        assert fields["warnings"][-1].startswith("Python 3.")
    assert shown[0]["verified"]["seconds"] != shown[1]["verified"]["seconds"]


@pytest.mark.slow
def test_either_side_of_a_conflict_is_right(
    built_on: Callable[..., Built], machine: Callable[..., Path], command: Command
) -> None:
    """When two people have built the same commit, both records lead to what both have: whichever is
    taken, nothing is left to do on either machine."""
    first, second = built_on("local", "one").folder, machine("second")
    taken = json.loads((first / "registry.json").read_text())["templates"]["one"]["local"]
    other = json.loads((second / "registry.json").read_text())["templates"]["one"]["local"]
    assert taken["channels"] == other["channels"]
    (ref,) = taken["builds"]
    differing = {
        key for key, value in taken["builds"][ref].items() if other["builds"][ref].get(key) != value
    }
    assert differing <= {"built_at", "checksum"}
    shutil.copy2(first / "registry.json", second / "registry.json")
    run(command, second, "plan", "one", "--frozen", "--target", "local", "--exit-code")
    run(command, second, "doctor", "--json")


@pytest.mark.slow
@pytest.mark.needs("git")
def test_git_sees_what_is_to_be_committed_alone(place: Place, command: Command) -> None:
    """After a build git sees the registry and what was generated: `.builder/` ignores itself."""
    folder = place.folder
    assert command("build", "four", "--frozen", "--target", "local", cwd=folder).returncode == 0
    git(folder, "init", "--quiet")
    assert git(folder, "status", "--porcelain").split() == [
        "??", "generated/", "??", "registry.json", "??", "variants/",
    ]  # fmt: skip
    assert (folder / ".builder" / ".gitignore").read_text().splitlines()[-1] == "*"


def tree(folder: Path) -> dict[str, bytes]:
    paths = sorted(path for path in (folder / "generated").rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.slow
def test_failed_build_leaves_generated_as_it_was(place: Place, command: Command) -> None:
    """What a variant renders to is written when its build holds up, and not before; the others' is
    written."""
    build = ("build", "three", "two", "--frozen", "--target", "local")
    for stem in ("three", "two"):
        path = place.folder / "variants" / f"{stem}.toml"
        path.write_text(path.read_text() + (FAILS if stem == "three" else "[env]\nA = '1'\n"))
    before = tree(place.folder)
    assert command(*build, cwd=place.folder).returncode == 21
    after = tree(place.folder)
    changed = {path for path in {*before, *after} if before.get(path) != after.get(path)}
    assert changed == {"generated/two/Dockerfile", "generated/two/template.toml"}
    path = place.folder / "variants" / "three.toml"
    path.write_text(path.read_text().replace("'5'", "'4'"))
    assert command(*build, cwd=place.folder).returncode == 0
    assert b"odd" in tree(place.folder)["generated/three/template.toml"]


@pytest.mark.slow
def test_folder_of_a_variant_that_is_gone_goes_with_a_build(place: Place, command: Command) -> None:
    """A build of all variants removes what was generated for one that is no more."""
    for stem in ("one", "three", "two"):
        (place.folder / "variants" / f"{stem}.toml").unlink()
    done = command("build", "--frozen", "--target", "local", cwd=place.folder)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (place.folder / "generated").iterdir()] == ["four"]


@pytest.mark.slow
def test_failed_build_on_e2b_leaves_generated_as_it_was(place: Place, cloud: Server) -> None:
    """On E2B the context of the build is a folder that git ignores; `generated/` follows."""
    path = place.folder / "variants" / "three.toml"
    path.write_text(path.read_text() + FAILS)
    before = tree(place.folder)
    assert place.build("three")["three"].error is not None
    assert tree(place.folder) == before
    path.write_text(path.read_text().replace("'5'", "'4'"))
    assert place.build("three")["three"].error is None
    assert b"odd" in tree(place.folder)["generated/three/template.toml"]
    assert (place.folder / ".builder" / "context" / "three" / "Dockerfile").is_file()


def test_measures_of_an_environment_that_is_gone_are_not_shown(
    place: Place,
    built_on: Callable[..., Built],
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a machine without the environment `show` tells what is recorded alone."""
    shutil.copytree(built_on("local", "one").folder, place.folder, dirs_exist_ok=True)
    shown = command("show", "one", "--json", cwd=place.folder)
    assert "seconds" in json.loads(shown.stdout)["verified"]
    empty = str(tmp_path / "empty")
    shown = command("show", "one", "--json", cwd=place.folder, TEMPLATE_BUILDER_CACHE_DIR=empty)
    assert "seconds" not in json.loads(shown.stdout)["verified"]
    monkeypatch.setenv("TEMPLATE_BUILDER_CACHE_DIR", empty)
    assert places_here.measures("sha256:" + "0" * 64) == {}
