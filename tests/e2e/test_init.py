from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Command
from tests.support.index_server import wheel

SCHEMAS = ["schemas/registry.schema.json", "schemas/variant.schema.json"]


@pytest.mark.slow
@pytest.mark.network
def test_new_project_builds(tmp_path: Path, command: Command) -> None:
    """In a fresh folder, `init` and `build` are all it takes: what was written is valid, checked in
    a sandbox, recorded, and no check that CI makes finds fault with it."""
    folder = tmp_path / "My Tools!"
    folder.mkdir()
    done = command("init", cwd=folder)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "wrote variants/_base.toml",
        "wrote variants/my-tools.toml",
        *(f"wrote {path}" for path in SCHEMAS),
        "wrote .gitignore",
        "next:",
        "  template-builder plan",
        "  template-builder build",
    ]
    for path in (folder / "variants").iterdir():
        schema = path.read_text().splitlines()[0].removeprefix("#:schema ")
        assert (path.parent / schema).resolve() == folder / "schemas" / "variant.schema.json"
    built = command("build", cwd=folder)
    assert built.returncode == 0, built.stderr
    ref = command("resolve", "my-tools", cwd=folder)
    assert ref.stdout.startswith("local:my-tools@sha256-")
    for arguments in (["validate"], ["render", "--check"], ["schema", "--check"]):
        checked = command(*arguments, cwd=folder)
        assert checked.returncode == 0, checked.stderr


@pytest.mark.slow
@pytest.mark.network
def test_packages_that_only_conda_has(tmp_path: Path, command: Command) -> None:
    """What the package index does not have is left out of the spec, with a note."""
    (tmp_path / "environment.yml").write_text(
        "name: lab\ndependencies:\n- idna\n- no-such-package-of-conda\n- nor-such-a-one=1\n"
    )
    done = command("init", "--from", "environment.yml", "--json")
    reason = "the package index has no package of this name"
    assert [
        (note["line"], note["reason"]) for note in json.loads(done.stdout)["not_taken_over"]
    ] == [
        (4, reason),
        (5, reason),
    ]
    assert 'packages = ["idna"]\n' in (tmp_path / "variants/lab.toml").read_text()


@pytest.mark.slow
@pytest.mark.network
def test_wheel_beside_the_requirements(tmp_path: Path, command: Command) -> None:
    """A wheel of one's own is copied beside the spec, locked and installed."""
    built = wheel("acme-tools", "1.0", acme_tools="")
    (tmp_path / built.filename).write_bytes(built.content)
    (tmp_path / "requirements.txt").write_text(f"idna\n./{built.filename}\n")
    assert command("init", "tools", "--from", "requirements.txt").returncode == 0
    done = command("build", "tools", "--target", "local")
    assert done.returncode == 0, done.stderr
    (record,) = json.loads((tmp_path / "registry.json").read_text())["templates"]["tools"]["local"][
        "builds"
    ].values()
    assert sorted(record["packages"]) == ["acme-tools", "idna"]
