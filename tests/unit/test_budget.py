"""What a keeper counts of its sandbox's memory and files."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from builder.targets.local.kernel_host import budget
from builder.targets.local.kernel_host.budget import Budget

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
MUCH = 1 << 50


def breach(folder: Path, **limits: int) -> str:
    most = {"memory": MUCH, "disk": MUCH, "files": MUCH} | limits
    return Budget({**most, "folders": [str(folder)], "memory_folders": []}).breach()


def test_files_are_counted_at_any_depth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file counts even if its path is longer than a system call accepts."""
    monkeypatch.setattr(budget, "_deleted", lambda _folders: [])  # of all processes here
    descriptor = os.open(tmp_path, os.O_RDONLY)
    for _ in range(60):
        os.mkdir("d" * 100, dir_fd=descriptor)
        child = os.open("d" * 100, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = child
    file = os.open("large", os.O_WRONLY | os.O_CREAT, dir_fd=descriptor)
    os.write(file, bytes(1 << 20))
    os.close(file)
    os.close(descriptor)
    assert breach(tmp_path, disk=1 << 20) == "disk"
    assert breach(tmp_path, files=60) == "files"
    assert breach(tmp_path, disk=1 << 22, files=61) == ""


def test_deleted_files_count_while_they_are_open(tmp_path: Path) -> None:
    """A deleted file counts as long as a process has it open."""
    with (tmp_path / "large").open("wb") as file:
        file.write(bytes(1 << 23))
        file.flush()
        (tmp_path / "large").unlink()
        before = Budget(
            {"memory": MUCH, "disk": 1 << 22, "files": MUCH, "folders": [str(tmp_path)]}
        )
        assert before.breach() == "disk"


def test_memory_of_all_processes_counts(tmp_path: Path) -> None:
    """The memory of all processes is added up; without limits, nothing is exceeded."""
    assert breach(tmp_path, memory=1 << 20) == "memory"
    assert Budget({}).breach() == ""
    assert Budget({}).pause() is None
