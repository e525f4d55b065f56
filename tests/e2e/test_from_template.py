"""Templates that are from other templates, on this machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builder.targets.local import place
from tests.conftest import Command

pytestmark = pytest.mark.network
TO = ("--target", "local")
PARENT = (
    'schema = 1\nname = "parent"\n[env]\nWHO = "parent"\nKIND = "both"\n'
    '[python]\npackages = ["idna"]\n'
    '[[files]]\nsource = "parent.toml"\ntarget = "/home/user/notes/of-parent"\n'
    '[warmup]\nlevel = "disk"\nimports = ["idna"]\n'
)
CHILD = (
    'schema = 1\nname = "child"\nfrom-template = "parent"\n[env]\nWHO = "child"\n'
    '[python]\npackages = ["six"]\n'
    '[warmup]\nlevel = "memory"\nimports = ["six"]\n'
    '[[verify]]\nname = "both"\nstdout = "child both True False"\n'
    "code = \"import os, sys; print(os.environ['WHO'], os.environ['KIND'],"
    " 'six' in sys.modules, 'idna' in sys.modules); import idna; open('notes/of-parent').close()\"\n"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "variants").mkdir()
    (tmp_path / "variants" / "parent.toml").write_text(PARENT)
    (tmp_path / "variants" / "child.toml").write_text(CHILD)
    return tmp_path


@pytest.mark.slow
def test_a_child_has_the_packages_and_variables_of_its_parent(
    folder: Path, command: Command, local_cache: Path
) -> None:
    """A child with one more package is built after its parent, in an environment of its own that
    stays when the parent's is gone; a promotion of the parent makes it outdated."""
    done = command("build", "parent", "--with-children", *TO, "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    child, parent = json.loads(done.stdout)["outcomes"]
    assert (child["name"], parent["name"]) == ("child", "parent")
    assert set(child["record"]["packages"]) == {"idna", "six"}
    assert child["record"]["from_template"] == parent["ref"]
    assert child["record"]["env"] == {"WHO": "child", "KIND": "both"}
    assert (
        "not provided by local: what it does not provide of `parent`, which this template is from:"
        " `template-builder show parent --target local` lists it"
    ) in child["record"]["warnings"]
    lock = (folder / "generated" / "child" / "template.toml").read_text()
    assert f'ref = "{parent["ref"]}"' in lock
    assert f'digest = "{parent["digest"]}"' in lock
    assert command("outdated", *TO, cwd=folder).returncode == 0

    (folder / "variants" / "parent.toml").write_text(
        PARENT.replace('["idna"]\n[[', '["idna", "pluggy"]\n[[')
    )
    done = command("build", "parent", *TO, "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    (second,) = json.loads(done.stdout)["outcomes"]
    done = command("outdated", "child", *TO, "--json", cwd=folder)
    (finding,) = json.loads(done.stdout)["templates"]
    assert "`from-template` changed: parent " in finding["reasons"][0]["text"]

    place.place_of(second["digest"]).unlink()
    done = command("plan", "child", *TO, "--exit-code", cwd=folder)
    assert done.returncode == 31
    assert (
        "the environment of `parent`, which it is from, is not on this machine; `template-builder"
        " build parent --target local` makes it"
    ) in " ".join(done.stderr.split())
    place.place_of(parent["digest"]).unlink()
    done = command("plan", "child", *TO, "--frozen", "--exit-code", cwd=folder)
    assert done.returncode == 0, done.stdout
    done = command("verify", "child", *TO, cwd=folder)
    assert done.returncode == 0, done.stderr
