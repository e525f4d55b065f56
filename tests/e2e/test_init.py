from __future__ import annotations

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
