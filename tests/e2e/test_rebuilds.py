"""Rebuilding an environment while sandboxes run in it, and rebuilding that fails."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.runtime import CodeExecutionPrimitive
from builder.targets.local import launch, leftovers
from builder.targets.local import place as places_here
from tests.conftest import Command
from tests.support.clouds import Place
from tests.support.here import copy_environment
from tests.support.options import rounds
from tests.support.program import start_program

pytestmark = [pytest.mark.network, pytest.mark.slow]
REBUILDS = rounds(1)
OPENINGS_A_REBUILD = 10
BUILD = ("build", "one", "--frozen", "--target", "local")


@pytest.fixture(scope="module")
def fail(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path of a file; while there is one, a check of the template `one` fails."""
    return tmp_path_factory.mktemp("checked") / "fail"


@pytest.fixture(scope="module")
def first(
    locked: Path, fail: Path, tmp_path_factory: pytest.TempPathFactory, byte_code: Path
) -> Place:
    """The template `one`, built on this machine with a cache of its own."""
    place = Place(tmp_path_factory.mktemp("first") / "place")
    shutil.copytree(locked, place.folder)
    code = f"import os; assert not os.path.exists({str(fail)!r})"
    check = f"[[verify]]\nname = 'outside'\ncode = {json.dumps(code)}\n"
    place.edit("one", lambda text: text + check)
    cache = place.folder / "cache"
    cache.mkdir()
    (cache / "byte-code").symlink_to(byte_code)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEMPLATE_BUILDER_CACHE_DIR", str(cache))
        assert place.build("one", target="local")["one"].error is None
    return place


@pytest.fixture
def built(
    first: Place, place: Place, fail: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    """A copy of the project and of its cache, which may be on another file system."""
    cache = place.folder / "cache"
    monkeypatch.setenv("TEMPLATE_BUILDER_CACHE_DIR", str(cache))
    monkeypatch.setenv("TEMPLATE_ISOLATION", "none")  # code says where its packages really are
    monkeypatch.setenv("TEMPLATE_REGISTRY", str(place.folder / "registry.json"))
    shutil.copytree(
        first.folder,
        place.folder,
        symlinks=True,
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("environments"),
    )
    (environment,) = folders(first)
    copy_environment(environment, cache / "environments" / environment.name)
    link = places_here.place_of(place.recorded("one", "local")["digest"])
    link.symlink_to(environment.name)
    yield place
    fail.unlink(missing_ok=True)


def again(place: Place, command: Command, *options: str, code: int = 0) -> str:
    done = command(
        *BUILD, *options, cwd=place.folder,
        TEMPLATE_BUILDER_CACHE_DIR=str(place.folder / "cache"),
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done.stderr


WHERE = "import ipykernel, pathlib; print(pathlib.Path(ipykernel.__file__).parents[4])"


def one() -> CodeExecutionPrimitive:
    return CodeExecutionPrimitive(template_id="one", target="local")


async def said(executor: CodeExecutionPrimitive, code: str) -> str:
    result = await executor.execute({"code": code})
    assert result["success"], result
    return str(result["output"]).strip()


def folder(place: Place) -> Path:
    """The folder that serves."""
    return places_here.folder_of(place.recorded("one", "local")["digest"])


def folders(place: Place) -> list[Path]:
    entries = sorted((place.folder / "cache" / "environments").iterdir())
    return [path for path in entries if not path.is_symlink()]


def test_rebuilds_disturb_nobody(built: Place, command: Command) -> None:
    """While a build is made again by force, again and again, every opening and every execution
    works, and a sandbox that was there before goes on importing what it has not imported yet."""

    def rebuild() -> None:
        for _ in range(REBUILDS):
            again(built, command, "--force")

    async def run() -> tuple[int, int]:
        async with one() as first:
            names = (
                await said(
                    first,
                    "import pkgutil, pygments.lexers\n"
                    "print(*(m.name for m in pkgutil.iter_modules(pygments.lexers.__path__)))",
                )
            ).split()
            rebuilding = asyncio.ensure_future(asyncio.to_thread(rebuild))
            opened = imported = 0
            while not rebuilding.done() or opened < REBUILDS * OPENINGS_A_REBUILD:
                await asyncio.wait([rebuilding], timeout=0.3)  # leave it most of the machine
                async with one() as executor:
                    assert await said(executor, "import idna; print(idna.__name__)") == "idna"
                opened += 1
                if imported < len(names):
                    await said(first, f"import pygments.lexers.{names[imported]}")
                    imported += 1
            await rebuilding
            return opened, imported

    before = folder(built)
    opened, imported = asyncio.run(run())
    assert opened >= REBUILDS * OPENINGS_A_REBUILD
    assert imported
    assert folder(built) != before


def test_what_was_replaced_goes_with_the_last_who_runs_in_it(
    built: Place, command: Command
) -> None:
    """The folder of before stays while a sandbox runs in it, with the process that it was forked
    from; then both go, and one folder is left."""
    before = folder(built)

    async def run() -> None:
        async with one() as old:
            await said(old, "1")
            again(built, command, "--force")
            leftovers.sweep()
            assert folders(built) == sorted([before, folder(built)])
            async with one() as new:
                assert await said(new, WHERE) == str(folder(built))
            assert await said(old, WHERE) == str(before)
        leftovers.sweep()
        assert folders(built) == [folder(built)]

    asyncio.run(run())
    environments = {zygote.environment for zygote in launch._zygotes.values() if zygote.alive()}
    assert before not in environments


def test_rebuild_that_fails_its_checks_changes_nothing(
    built: Place, fail: Path, command: Command
) -> None:
    """When the new environment is not what it promises, the one before serves, and the new is
    gone."""
    before, registry = folder(built), (built.folder / "registry.json").read_bytes()
    fail.touch()
    stderr = again(built, command, "--force", code=21)
    assert "check `outside` failed: AssertionError" in stderr
    assert folders(built) == [before]
    assert folder(built) == before
    assert (built.folder / "registry.json").read_bytes() == registry
    assert asyncio.run(printed("print(6 * 7)")) == "42"


async def printed(code: str) -> str:
    async with one() as executor:
        return await said(executor, code)


@pytest.mark.skipif(sys.platform != "linux", reason="what a killed build leaves is swept at once")
def test_killed_rebuild_changes_nothing(built: Place) -> None:
    """After SIGKILL at any moment of a rebuild an environment serves, and the next sweep leaves
    that one alone."""
    chance = random.Random(5)
    for _ in range(REBUILDS + 2):
        running = start_program([*BUILD, "--force"], cwd=built.folder, env=os.environ)
        time.sleep(chance.uniform(0.2, 3.0))
        running.send_signal(signal.SIGKILL)
        running.communicate()
        assert asyncio.run(printed("import idna; print(6 * 7)")) == "42"
        deadline = time.monotonic() + 30  # its guards take a moment to end its processes
        while folders(built) != [folder(built)] and time.monotonic() < deadline:
            leftovers.sweep()
        assert folders(built) == [folder(built)]


@pytest.fixture
def small_disk(place: Place) -> Iterator[Path]:
    """The folder of the cache on a file system of its own, whose size can be changed."""
    cache = place.folder / "cache"
    cache.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", cache],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("a file system of its own needs root")
    yield cache
    subprocess.run(["umount", "--lazy", cache], check=True)


def test_rebuild_on_a_full_disk_changes_nothing(
    small_disk: Path, built: Place, command: Command
) -> None:
    """Where the disk has no room for a second environment, the rebuild fails, says why, and the one
    before serves."""
    before, usage = folder(built), shutil.disk_usage(small_disk).used
    size = f"remount,size={usage + (2 << 20)}"
    subprocess.run(["mount", "-o", size, small_disk], check=True)
    assert "the disk is full" in again(built, command, "--force", code=22)
    assert folders(built) == [before]
    assert asyncio.run(printed("import idna; print(6 * 7)")) == "42"


def test_folder_of_an_earlier_version_serves_and_is_replaced(
    built: Place, command: Command
) -> None:
    """An environment at the place of the link, as earlier versions made it, serves; a rebuild
    replaces it while a sandbox runs in it."""
    digest = built.recorded("one", "local")["digest"]
    link = places_here.place_of(digest)
    made = folder(built)
    link.unlink()
    made.rename(link)
    assert folder(built) == link

    async def run() -> None:
        async with one() as old:
            assert await said(old, WHERE) == str(link)
            again(built, command, "--force")
            assert link.is_symlink()
            await said(old, "import pygments.lexers.python, packaging.version")
            async with one() as new:
                assert await said(new, WHERE) == str(folder(built))

    asyncio.run(run())
    leftovers.sweep()
    assert folders(built) == [folder(built)]
