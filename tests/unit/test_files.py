from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import record
from builder.errors import StorageError
from builder.render import write
from builder.spec import load_variants
from builder.system import uv_settings
from builder.system.files import atomic_write, cache_folder
from tests.support.samples import rendered_of


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
    record.update(path, lambda data: data.templates.update(a={}))
    assert json.loads(path.read_text())["templates"] == {"a": {}}
    assert mode_of(path) == mode


def test_registry_behind_a_link_keeps_its_mode(tmp_path: Path) -> None:
    """Written through a symbolic link, the file behind it keeps its mode, and the link stays."""
    path, link = tmp_path / "real.json", tmp_path / "registry.json"
    path.write_text('{"version": 1, "templates": {}}')
    path.chmod(0o600)
    link.symlink_to(path)
    record.update(link, lambda data: data.templates.update(a={}))
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


@pytest.fixture
def _no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user ID without an account, as in many containers, and without `HOME`."""

    def no_account(_user: int) -> None:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr("pwd.getpwuid", no_account)
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "TEMPLATE_BUILDER_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("_no_home")
def test_user_without_a_home_folder_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a home folder there is no cache until one is named, and no folder `~` is made."""
    with pytest.raises(StorageError) as caught:
        cache_folder()
    assert str(caught.value) == (
        "this user has no home folder to keep environments in\n\n"
        "hint: set HOME, or TEMPLATE_BUILDER_CACHE_DIR to a folder for the environments"
    )
    monkeypatch.setenv("TEMPLATE_BUILDER_CACHE_DIR", "/srv/environments")
    assert cache_folder() == Path("/srv/environments")


@pytest.mark.usefixtures("_no_home")
def test_no_settings_of_uv_are_read_from_a_folder_called_tilde(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a home folder there are no settings of the user, in no folder `~` either."""
    monkeypatch.delenv("UV_NO_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    foreign = tmp_path / "~" / ".config" / "uv" / "uv.toml"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("offline = true\n")
    assert "offline" not in uv_settings.configuration(os.environ)


NO_ACCOUNT = """
import pwd

def getpwuid(user):
    raise KeyError(f"getpwuid(): uid not found: {user}")

pwd.getpwuid = getpwuid
from builder.cli import main
main()
"""


@pytest.mark.slow
@pytest.mark.usefixtures("_no_home")
def test_commands_without_a_home_folder(project: Path) -> None:
    """What needs no environment works for a user without a home folder; the rest says what to set."""

    def run(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-c", NO_ACCOUNT, *arguments, "--project", str(project)],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    variants = load_variants(project / "variants")
    write([rendered_of(one) for one in variants], project / "generated", all_variants=True)
    assert run("render", "--check")[0] == 0
    for arguments in (("gc", "--yes"), ("build", "--frozen", "--target", "local")):
        code, output = run(*arguments)
        assert code == 22
        assert "error: this user has no home folder" in output
        assert "Traceback" not in output
    code, output = run("doctor")
    assert "no     environments  this user has no home folder" in output
    assert "Traceback" not in output


def test_file_in_the_place_of_generated_is_called_that(project: Path) -> None:
    """Where `generated` is a file, the error says so, not that the folder needs permissions."""
    (project / "generated").touch()
    rendered = [rendered_of(one) for one in load_variants(project / "variants")]
    with pytest.raises(StorageError) as caught:
        write(rendered, project / "generated", all_variants=True)
    assert str(caught.value) == (
        f"writing generated/ failed: Not a directory (`{project / 'generated'}`)"
    )
