from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.conftest import Command

WRITES = (
    "[[verify]]\nname = 'writes'\n"
    'code = "import idna, os; os.chmod(os.path.dirname(idna.__file__), 0o755);'
    " open(os.path.dirname(idna.__file__) + '/x.py', 'w').close()\"\n"
)


@pytest.mark.network
def test_verify_names_what_was_changed(project: Path, tmp_path: Path, command: Command) -> None:
    """`verify` names the files of an environment that are not as they were, and how to make it
    anew, which works; a build whose checks change the environment is not recorded."""
    cache = {"TEMPLATE_BUILDER_CACHE_DIR": str(tmp_path / "own")}
    assert command("build", "light", cwd=project, **cache).returncode == 0
    assert command("verify", "light", cwd=project, **cache).returncode == 0
    (package,) = (tmp_path / "own" / "environments").glob("sha256-*/lib/python3*/*-packages/idna")
    assert not package.stat().st_mode & stat.S_IWUSR
    package.chmod(0o755)
    for number in range(6):
        (package / f"added_{number}.py").touch()
    changed = command("verify", "light", cwd=project, **cache)
    assert changed.returncode == 21
    inside = os.path.join(*package.parts[-4:])
    named = sorted(f"  {inside}/added_{n}.py was added" for n in range(6))
    lines = changed.stderr.splitlines()
    assert "error: the build of `light` on `local` was modified after it was built:" in lines
    assert len(set(named) & set(lines)) == 5
    assert "  and 1 more" in lines
    assert (
        lines[-1]
        == "hint: `template-builder build light --force --target local` makes the environment anew"
    )
    assert command("build", "light", "--force", cwd=project, **cache).returncode == 0
    assert command("verify", "light", cwd=project, **cache).returncode == 0
    spec = project / "variants" / "light.toml"
    spec.write_text(spec.read_text() + WRITES)
    recorded = (project / "registry.json").read_bytes()
    refused = command("build", "light", cwd=project, **cache)
    assert refused.returncode == 21
    assert f"  its checks modified the build itself:\n  {inside}/x.py was added\n" in (
        refused.stderr
    )
    assert (project / "registry.json").read_bytes() == recorded
