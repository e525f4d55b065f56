from __future__ import annotations

import json
import os
import shutil
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from builder import record
from builder.registry.model import Contents
from tests.conftest import Command
from tests.support.here import unseal


@pytest.mark.slow
@pytest.mark.network
def test_verify_checks_what_is_served(project: Path, command: Command) -> None:
    """`verify` runs the checks that a build was made with: of the channel's build after a rollback,
    of any other by its ref, its beginning, or NAME@REF; what a record does not have is named."""
    spec = project / "variants" / "light.toml"
    refs = []
    for stdout in ("xn--strae-oqa", "other"):
        built = command("build", "light", "--json", cwd=project)
        assert built.returncode == 0, built.stderr
        refs.append(json.loads(built.stdout)["outcomes"][0]["ref"])
        text = spec.read_text().replace("a name is encoded", "another check")
        spec.write_text(text.replace("xn--strae-oqa", stdout))
    assert command("rollback", "light", cwd=project).returncode == 0

    def checked(*arguments: str) -> tuple[str, list[str], list[str]]:
        done = command("verify", *arguments, "--json", cwd=project)
        assert done.returncode == 0, done.stderr
        (told,) = json.loads(done.stdout).values()
        return told["ref"], told["checks"], told["left_out"]

    old: tuple[str, list[str], list[str]] = (refs[0], ["import idna", "a name is encoded"], [])
    new: tuple[str, list[str], list[str]] = (refs[1], ["import idna", "another check"], [])
    assert checked("light") == old
    assert checked("light", refs[1]) == new
    assert checked(f"light@{refs[1].rpartition('-')[2][:12]}") == new
    shown = command("verify", "light", "stable", cwd=project).stdout
    assert shown.startswith(f"light: 2 checks passed ({refs[0]})\n  import idna (")

    def older(data: Contents) -> None:
        builds = data.templates["light"]["local"].builds
        builds[refs[0]] = replace(builds[refs[0]], checks=None)

    record.update(project / "registry.json", older)
    assert checked("light") == (refs[0], ["import idna"], ["a name is encoded"])
    assert "not run, because it was not recorded: a name is encoded" in (
        command("verify", "light", cwd=project).stdout
    )
    for arguments, code, said in (
        (("light", "nothing"), 46, "`light` has no build or channel `nothing` on `local`"),
        (("ligth",), 42, "no template `ligth`"),
        (("other",), 42, "no template `other`"),
    ):
        done = command("verify", *arguments, cwd=project)
        assert (done.returncode, said in done.stderr) == (code, True), done.stderr


WRITES = (
    "[[verify]]\nname = 'writes'\n"
    'code = "import idna, os; os.chmod(os.path.dirname(idna.__file__), 0o755);'
    " open(os.path.dirname(idna.__file__) + '/x.py', 'w').close()\"\n"
)


@pytest.mark.slow
@pytest.mark.network
def test_verify_names_what_was_changed(project: Path, new_cache: Path, command: Command) -> None:
    """`verify` of an environment that lacks a package, or whose files are not as they were, names
    these, and says how to make it anew, which works; a build whose checks change the environment is
    not recorded."""
    cache = {"TEMPLATE_BUILDER_CACHE_DIR": str(new_cache)}
    assert command("build", "light", cwd=project, **cache).returncode == 0
    assert command("verify", "light", cwd=project, **cache).returncode == 0
    (package,) = (new_cache / "environments").glob("sha256-*/lib/python3*/*-packages/idna")
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
    hint = "hint: `template-builder build light --force --target local` recreates the environment"
    assert lines[-1] == hint
    unseal(package.parent)
    shutil.rmtree(package)
    damaged = command("verify", "light", cwd=project, **cache)
    assert damaged.returncode == 21
    assert damaged.stderr.endswith(f"{hint}\n")
    assert command("build", "light", "--force", cwd=project, **cache).returncode == 0
    assert command("verify", "light", cwd=project, **cache).returncode == 0
    spec = project / "variants" / "light.toml"
    spec.write_text(spec.read_text() + WRITES)
    recorded = (project / "registry.json").read_bytes()
    # Behind walls, no check can.
    refused = command("build", "light", cwd=project, **cache, TEMPLATE_ISOLATION="none")
    assert refused.returncode == 21
    assert f"  its checks modified the build itself:\n  {inside}/x.py was added\n" in (
        refused.stderr
    )
    assert (project / "registry.json").read_bytes() == recorded
