from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from builder import errors, render
from tests.conftest import BASE, LIGHT, OTHER, Command
from tests.support.samples import load, rendered_of

ODD = ["/dev/zero", "/dev/full", "/dev/stdin", "pipe", "folder", "huge", "circle"]


def odd(place: Path, kind: str) -> None:
    """Put something that is not a plain file where one is expected."""
    place.unlink(missing_ok=True)
    if kind.startswith("/"):
        place.symlink_to(kind)
    elif kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    elif kind == "huge":
        with place.open("wb") as file:
            file.truncate(1 << 40)
    else:
        place.symlink_to(place)


@pytest.mark.parametrize("kind", ODD)
def test_registry_that_is_no_file_is_refused(project: Path, command: Command, kind: str) -> None:
    """A device, a pipe, a folder, a terabyte or a link to itself in the registry's place is told as
    that at once, to readers and to writers, and stays what it is."""
    odd(project / "registry.json", kind)
    for arguments in (
        ["resolve", "x"],
        ["list"],
        ["adopt", "x", "abc", "--unchecked"],
        ["gc", "--dry-run"],
    ):
        done = command(*arguments, cwd=project)
        assert "Traceback" not in done.stderr
        assert done.returncode in (errors.RegistryError.exit_code, errors.StorageError.exit_code)
        assert "registry.json" in done.stderr
    assert not (project / "registry.json").is_file() or kind == "huge"


@pytest.mark.network
@pytest.mark.parametrize("kind", ["/dev/zero", "pipe", "folder", "huge"])
@pytest.mark.parametrize(
    ("where", "code"),
    [
        ("variants/light.toml", errors.SpecError.exit_code),
        ("pyproject.toml", errors.ProjectError.exit_code),
        ("generated/light/template.toml", errors.StaleLockError.exit_code),
        ("generated/light/requirements/light.txt", errors.StaleLockError.exit_code),
    ],
)
def test_file_that_is_none_is_refused(
    project: Path, command: Command, rendered: Path, where: str, kind: str, code: int
) -> None:
    """The same for a spec, for settings and for what a lock is read from."""
    shutil.copytree(rendered, project / "generated", dirs_exist_ok=True)
    odd(project / where, kind)
    done = command("plan", "light", "--frozen", "--target", "local", cwd=project)
    assert "Traceback" not in done.stderr
    assert done.returncode == code, done.stderr
    assert Path(where).name in done.stderr or "generated/light" in done.stderr


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`generated/` of the project of two light variants."""
    folder = tmp_path_factory.mktemp("rendered")
    variants = load(folder, _base=BASE, light=LIGHT, other=OTHER)
    all_rendered = [rendered_of(variant) for variant in variants.values()]
    render.write(all_rendered, folder / "generated", all_variants=True)
    return folder / "generated"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("../outside", "is not a path inside"),
        ("a/../../outside", "is not a path inside"),
        ("/etc/passwd", "is not a path inside"),
        ("/", "'/' is not a path inside the variants folder"),
        ("a\\nb", "must be one line of text"),
        ("", ""),
    ],
)
def test_source_outside_is_refused(project: Path, command: Command, source: str, said: str) -> None:
    """A source that leads out of the variants folder, or breaks a line, is refused unread."""
    (project / "outside").write_text("secret")
    entry = f'[[files]]\nsource = "{source}"\ntarget = "/opt/x"\n'
    (project / "variants" / "light.toml").write_text(LIGHT + entry)
    done = command("validate", cwd=project)
    assert done.returncode == errors.SpecError.exit_code
    assert "`files[0].source`" in done.stderr
    assert said in done.stderr
    assert "secret" not in done.stdout + done.stderr
