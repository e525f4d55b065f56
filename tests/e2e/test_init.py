from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Command

SCHEMAS = ["schemas/registry.schema.json", "schemas/variant.schema.json"]


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
