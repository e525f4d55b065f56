"""Finished environments are read-only, and `verify` sees what was changed in one all the same."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from builder.system.files import remove_tree
from builder.targets.local import leftovers, place, sealed
from tests.conftest import ROOT


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A folder like an environment, with a file that is linked from elsewhere."""
    folder, cache = tmp_path / "made", tmp_path / "cache"
    (folder / "bin").mkdir(parents=True)
    (folder / "lib" / "deep").mkdir(parents=True)
    (folder / "home").mkdir()
    for path in ("lib/a.py", "lib/deep/b.py", "home/c", "pyvenv.cfg", "used"):
        (folder / path).write_text(path)
    cache.write_text("cached")
    os.link(cache, folder / "lib" / "linked.py")
    (folder / "bin" / "python").symlink_to(sys.executable)
    (folder / "lib" / "deep" / "up").symlink_to("..")
    return folder


def writable(folder: Path) -> set[str]:
    return {
        os.path.relpath(path, folder)
        for path in (folder, *folder.rglob("*"))
        if not path.is_symlink() and path.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP)
    }


def test_sealed_environment_is_read_only(made: Path) -> None:
    """All that sandboxes use loses its write permission, but the home that they copy; what is kept
    about an environment does not."""
    size = sealed.seal(made)
    assert writable(made) == {".", "home", "home/c", "used", "files.json"}
    assert size == sum(path.lstat().st_size for path in made.rglob("*") if not path.is_dir()) - sum(
        (made / name).stat().st_size for name in ("used", "files.json")
    ) + len("..")
    assert sealed.changes(made) == []


def test_every_change_is_seen(made: Path, tmp_path: Path) -> None:
    """A file that was changed, added or removed is named, also when it was linked from elsewhere;
    a moved environment is as it was."""
    sealed.seal(made)
    moved = made.rename(tmp_path / "moved")
    shutil.copytree(moved, made, symlinks=True)
    assert sealed.changes(made) == sealed.changes(moved) == []
    remove_tree(made)
    (tmp_path / "cache").chmod(0o644)
    (tmp_path / "cache").write_text("changed")
    for path in (moved / "lib", moved / "lib" / "deep", moved / "bin"):
        path.chmod(0o755)
    (moved / "lib" / "a.py").unlink()
    (moved / "lib" / "deep" / "new.py").touch()
    (moved / "bin" / "python").unlink()
    (moved / "bin" / "python").symlink_to("/elsewhere")
    os.utime(moved / "lib" / "deep" / "b.py", (1, 1))
    (moved / "home" / "c").write_text("d")
    assert sorted(sealed.changes(moved)) == [
        "bin/python was changed",
        "home/c was changed",
        "lib/a.py is gone",
        "lib/deep/b.py was changed",
        "lib/deep/new.py was added",
        "lib/linked.py was changed",
    ]
    (moved / "files.json").write_text("{")
    assert sealed.changes(moved) == ["files.json cannot be read"]
    (moved / "files.json").unlink()
    assert sealed.changes(moved) == []


def test_scripts_are_run_by_whoever_calls_them(made: Path, tmp_path: Path) -> None:
    """A script of uv in an environment is run by the interpreter beside the name by which it was
    called; another file that is linked from uv's cache stays as it is."""
    script = made / "bin" / "tool"
    script.write_text(
        '#!/bin/sh\n\'\'\'exec\' "$(dirname -- "$(realpath -- "$0")")"/\'python\' "$0" "$@"\n'
        "' '''\nimport sys\nprint(sys.argv)\n"
    )
    script.chmod(0o755)
    sealed.seal(made)
    assert stat.S_IMODE(script.stat().st_mode) == 0o555
    own = tmp_path / "own"
    own.mkdir()
    (own / "tool").symlink_to(script)
    (own / "python").write_text('#!/bin/sh\necho own "$@"\n')
    (own / "python").chmod(0o755)
    done = subprocess.run([own / "tool", "x"], capture_output=True, text=True, check=True)
    assert done.stdout == f"own {own}/tool x\n"


AS_USER = """
import os, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from builder.system.files import remove_tree
from builder.targets.local import sealed
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
folder = Path(sys.argv[2])
os.mkdir(folder)
for name in ("bin", "lib", "lib/deep", "home"):
    os.mkdir(folder / name)
(folder / "lib/deep/a.py").write_text("1")
(folder / "pyvenv.cfg").write_text("1")
os.link(folder / "lib/deep/a.py", folder.parent / "linked.py")
sealed.seal(folder)
for path, mode in (("lib/deep/a.py", "w"), ("lib/deep/new.py", "x"), ("pyvenv.cfg", "a")):
    try:
        open(folder / path, mode)
    except PermissionError:
        print("refused", path)
os.rename(folder, folder.with_name("gone"))
remove_tree(folder.with_name("gone"))
print(folder.with_name("gone").exists(), oct((folder.parent / "linked.py").stat().st_mode & 0o777))
"""


def test_user_can_remove_what_nobody_can_write() -> None:
    """To an ordinary user a sealed environment is read-only, and its owner can remove it, which
    leaves the permissions of linked files alone."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        done = subprocess.run(
            [sys.executable, "-c", AS_USER, str(ROOT), f"{folder}/made"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.stdout.splitlines() == [
        "refused lib/deep/a.py", "refused lib/deep/new.py", "refused pyvenv.cfg", "False 0o444",
    ], done.stderr  # fmt: skip


HOLD = """
import os, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from builder.targets.local import place
os.setgid(65534)
os.setuid(65534)
with place.held(Path(sys.argv[2])) as held:
    print(len(held), flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a second user")
def test_what_another_user_runs_in_is_not_removed() -> None:
    """An environment in which another user runs something, and which that user cannot write to, is
    not removed before that has ended."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        made = Path(folder) / "made-00000000-sha256-0"
        made.mkdir()
        (made / place.USED).touch()
        with subprocess.Popen(
            [sys.executable, "-c", HOLD, str(ROOT), str(made)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        ) as holder:  # fmt: skip
            assert holder.stdout
            assert holder.stdout.readline() == "1\n"
            assert not leftovers.remove_unused(made)
            holder.communicate()
        assert leftovers.remove_unused(made)
        assert not made.exists()
