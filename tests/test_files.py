from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import record
from builder.files import atomic_write


@pytest.fixture
def umask() -> Iterator[None]:
    """A umask that lets the group write."""
    before = os.umask(0o002)
    yield
    os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o444])
def test_registry_keeps_its_mode(tmp_path: Path, mode: int) -> None:
    """A registry that is its owner's alone stays so at each write, as does one of a group."""
    path = tmp_path / "registry.json"
    path.write_text('{"version": 1, "templates": {}}')
    path.chmod(mode)
    record.update(path, lambda data: data["templates"].update(a={}))
    assert json.loads(path.read_text())["templates"] == {"a": {}}
    assert mode_of(path) == mode


def test_registry_behind_a_link_keeps_its_mode(tmp_path: Path) -> None:
    """Written through a symbolic link, the file behind it keeps its mode, and the link stays."""
    path, link = tmp_path / "real.json", tmp_path / "registry.json"
    path.write_text('{"version": 1, "templates": {}}')
    path.chmod(0o600)
    link.symlink_to(path)
    record.update(link, lambda data: data["templates"].update(a={}))
    assert link.is_symlink()
    assert mode_of(path) == 0o600


def test_new_file_gets_what_the_umask_leaves(tmp_path: Path, umask: None) -> None:
    """A new file may be written by the group where the umask says so; a given mode is exact."""
    atomic_write(tmp_path / "a", b"")
    assert mode_of(tmp_path / "a") == 0o664
    os.umask(0o077)
    atomic_write(tmp_path / "b", b"")
    atomic_write(tmp_path / "c", b"", mode=0o755)
    assert (mode_of(tmp_path / "b"), mode_of(tmp_path / "c")) == (0o600, 0o755)


@pytest.mark.skipif(os.geteuid() != 0, reason="files are given away by root alone")
def test_owner_and_group_are_kept(tmp_path: Path) -> None:
    """What root writes stays the file of whoever it belonged to."""
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o664)
    os.chown(path, 1, 2)
    atomic_write(path, b"new")
    status = path.stat()
    assert (path.read_text(), status.st_uid, status.st_gid, mode_of(path)) == ("new", 1, 2, 0o664)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a file of another group")
def test_another_group_gets_no_more_than_everybody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the group cannot be kept, the group that the file has instead learns nothing."""
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o660)
    os.chown(path, 0, 2)

    def refused(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "fchown", refused)
    atomic_write(path, b"new")
    assert (path.read_text(), mode_of(path)) == ("new", 0o600)


@pytest.mark.skipif(sys.platform != "linux", reason="extended attributes are Linux's")
def test_extended_attributes_are_kept(tmp_path: Path) -> None:
    """Attributes, in which access lists are kept, too, are those of the file that is replaced."""
    path = tmp_path / "file"
    path.write_text("old")
    try:
        os.setxattr(path, "user.note", b"keep")
    except OSError as error:
        pytest.skip(f"no extended attributes here: {error}")
    atomic_write(path, b"new")
    assert (path.read_text(), os.getxattr(path, "user.note")) == ("new", b"keep")
