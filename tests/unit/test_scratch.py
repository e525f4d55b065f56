"""Temporary folders, also of programs that were killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from builder.system import scratch
from builder.system.scratch import Scratch

MAKER = """
import os, signal
from builder.system.scratch import Scratch
(Scratch({parent!r}).path / "file").touch()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def new_process() -> None:
    scratch._remove_abandoned.cache_clear()


def test_folder_of_a_killed_program_is_removed(tmp_path: Path) -> None:
    """A folder whose maker was killed is removed by the next one, that of a running program is
    not, nor what another program has called the like."""
    other = tmp_path / "template-of-somebody"
    other.mkdir()
    ours = Scratch(str(tmp_path))
    killed = subprocess.run([sys.executable, "-c", MAKER.format(parent=str(tmp_path))], check=False)
    assert killed.returncode == -9
    assert len(list(tmp_path.iterdir())) == 3
    scratch._remove_abandoned.cache_clear()
    new = Scratch(str(tmp_path))
    assert {*tmp_path.iterdir()} == {other, ours.path, new.path}


def test_folder_of_its_own(tmp_path: Path) -> None:
    """A folder is for this user alone, and gone with all in it once it is removed."""
    ours = Scratch(str(tmp_path))
    assert ours.path.stat().st_mode & 0o777 == 0o700
    (ours.path / "folder").mkdir(mode=0o500)
    ours.remove()
    ours.remove()
    assert list(tmp_path.iterdir()) == []


def test_folder_on_its_way(tmp_path: Path) -> None:
    """A folder without its name is removed when it is an hour old: its maker was killed before it
    held the lock."""
    old, young = (tmp_path / f".template-builder-{name}" for name in ("old", "young"))
    for folder in (old, young):
        folder.mkdir()
    os.utime(old, (time.time() - 4000,) * 2)
    new = Scratch(str(tmp_path))
    assert {*tmp_path.iterdir()} == {young, new.path}
