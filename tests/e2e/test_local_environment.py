"""Environments of this machine: what is in them, who makes them, and what blocks them."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from builder import workflow
from builder.errors import (
    NotOnThisMachineError,
)
from builder.plan import StateQuery
from builder.project import Project
from builder.registry.model import Entry
from builder.render import Rendered
from builder.system.events import discard
from builder.system.logs import Log
from builder.targets.local import place
from builder.targets.local.target import LocalTarget
from builder.targets.protocol import Opening
from builder.verify import verify
from tests.conftest import BASE, ROOT, Command
from tests.support.here import build_here, unseal
from tests.support.sandboxes import LIGHT

pytestmark = pytest.mark.network


def test_second_build_finds_the_first(light: Rendered, ref: str, log: Log) -> None:
    """An environment of the same digest is not made twice, and its recorded times are kept."""
    first = build_here(light, log)
    assert first.reused
    assert set(first.cold) == {"idna", "dateutil.parser"}


@pytest.mark.slow
def test_files_are_linked_from_the_cache_of_uv(light: Rendered, ref: str) -> None:
    """Installed files are hard links, so that a second environment costs next to no space."""
    found = place.find(light.digest)
    assert found
    (module,) = found.path.glob("lib/python*/site-packages/idna/core.py")
    assert module.stat().st_nlink > 1


def test_every_module_has_byte_code(light: Rendered, ref: str) -> None:
    """After a build all that can be imported has its byte code on disk, whether the warm-up imports
    it or not: the locked packages and the kernel's, except for their own tests."""
    found = place.find(light.digest)
    assert found
    (packages,) = found.path.glob("lib/python*/site-packages")
    for name in ("idna", "dateutil", "yaml", "ipykernel", "IPython"):
        modules = (packages / name).rglob("*.py")
        for module in (module for module in modules if "tests" not in module.parts):
            assert Path(importlib.util.cache_from_source(str(module))).exists(), module


def test_broken_environment_is_not_found(light: Rendered, ref: str) -> None:
    """An environment whose interpreter is gone counts as not there."""
    found = place.find(light.digest)
    assert found
    unseal(found.path)
    python = found.path / "bin" / "python"
    moved = python.rename(python.with_name("python.moved"))
    try:
        assert place.find(light.digest) is None
        query = StateQuery(rendered=light, recorded=Entry(), channel="stable")
        assert not LocalTarget().look(query).present
        with pytest.raises(NotOnThisMachineError) as caught:
            LocalTarget().open(Opening(ref=ref, name="light"))
        assert str(caught.value) == (
            f"the environment of `{ref}` is not on this machine\n\n"
            "hint: `template-builder build light --frozen --target local` makes it"
        )
    finally:
        moved.rename(python)


@pytest.mark.slow
def test_one_maker_at_a_time(light: Rendered, tmp_path: Path, new_cache: Path) -> None:
    """Three processes that build one digest at once make it once, and all have it."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from builder import workflow\n"
        "from builder.registry.model import Build\n"
        "from builder.targets.protocol import BuildInput, Publication\n"
        "from builder.system.events import discard\n"
        "from builder.system.logs import Log\n"
        "from builder.project import Project\n"
        "from builder.targets.local.target import LocalTarget\n"
        "project = Project.find(Path(sys.argv[2]))\n"
        "request = workflow.BuildRequest(frozen=True)\n"
        "context = workflow.Context(project=project)\n"
        "(r,) = workflow.prepare(request, context, workflow.RENDER).rendered\n"
        "target, log = LocalTarget(), Log(Path(sys.argv[2]) / 'logs', target='local')\n"
        "with target.claimed('light'):\n"
        "    built = target.build(BuildInput(rendered=r, folder=Path()), report=discard, log=log)\n"
        "    build = Build(digest=built.digest)\n"
        "    target.publish(Publication(name='light', build=build, channel='stable'))\n"
        "print(built.reused)\n"
    )
    project = tmp_path / "project"
    (project / "variants").mkdir(parents=True)
    (project / "variants" / "_base.toml").write_text(BASE.replace("    ", ""))
    (project / "variants" / "light.toml").write_text(LIGHT)
    generated = project / "generated" / "light"
    for file in light.files:
        (generated / file.path).parent.mkdir(parents=True, exist_ok=True)
        (generated / file.path).write_bytes(file.content)
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(ROOT), str(project)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"TEMPLATE_BUILDER_CACHE_DIR": str(new_cache)},
        )
        for _ in range(3)
    ]
    said = sorted(process.communicate()[0].strip() for process in running)
    assert said == ["False", "True", "True"]
    assert sorted(p.is_symlink() for p in (new_cache / "environments").iterdir()) == [False, True]


@pytest.mark.slow
def test_verified_build_carries_its_measurements(light: Rendered, ref: str, log: Log) -> None:
    """Verification runs the derived smoke tests and gives first-use times at every level."""
    built = build_here(light, log)
    verified = verify(built, light, LocalTarget(), report=discard, log=log)
    assert [check.name for check in verified.checks] == [
        "import idna",
        "import python-dateutil (dateutil)",
        "import pyyaml (yaml)",
    ]
    assert verified.packages == light.lock.packages
    assert {level: set(times) for level, times in verified.first_use.items()} == {
        level: {"idna", "dateutil.parser"} for level in ("cold", "disk", "memory")
    }
    assert sum(verified.first_use["memory"].values()) < sum(verified.first_use["disk"].values())
    assert verified.sandbox_seconds > 0
    assert verified.warm_sandbox_seconds


def test_what_local_cannot_provide_is_said(write: Callable[..., Path]) -> None:
    """Debian packages, files outside of the home, the image and limits are listed as not provided."""
    folder = write(
        _base=BASE,
        light="schema = 1\nname = 'light'\nextends = '_base'\n[system]\npackages = ['git']\n"
        "[[files]]\nsource = '_base.toml'\ntarget = '/opt/x'\n",
    )
    (variant,) = workflow.variants_called(Project.find(folder.parent), [])
    assert LocalTarget(isolation="none").unsupported(variant) == (
        "Debian packages of variants/light.toml: git",
        "files outside of /home/user of variants/light.toml: /opt/x",
        "the base image localhost:1/python:3.13 and its service: Python comes from this machine",
        "limits: 2 CPUs and 1024 MiB are not enforced, and it is no security boundary",
    )


CODE = """
import os, stat
os.chdir(os.path.expanduser("~"))
modes = [oct(stat.S_IMODE(os.stat(path).st_mode)) for path in ("data/in/y", "bin/tool")]
print(open("data/in/y").read(), *modes)
"""


@pytest.mark.slow
@pytest.mark.network
def test_files_of_the_home_are_in_each_sandbox(
    write: Callable[..., Path], command: Command, cache: Path
) -> None:
    """Files and folders at and below /home/user are in the home of a local sandbox, with their
    modes."""
    leaf = (
        "schema = 1\nname = 'light'\nextends = '_base'\n"
        "[[files]]\nsource = 'data/'\ntarget = '/home/user/data'\n"
        "[[files]]\nsource = 'data/x'\ntarget = '/home/user/bin/tool'\nmode = '0700'\n"
        "[[verify]]\nname = 'files'\nstdout = 'in data 0o644 0o700'\n"
        f"code = {json.dumps(CODE)}\n"
    )
    folder = write(_base=BASE, light=leaf)
    (folder / "data" / "in").mkdir(parents=True)
    (folder / "data" / "x").write_text("x")
    (folder / "data" / "in" / "y").write_text("in data")
    done = command("build", "--target", "local", cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    assert "files outside" not in done.stderr


def test_python_that_is_not_here_blocks(write: Callable[..., Path]) -> None:
    """A variant for a Python that this machine lacks is blocked, with how to get it."""
    folder = write(
        _base=BASE.replace(">=3.11", "==3.29.*"),
        light="schema = 1\nname = 'light'\nextends = '_base'\n",
    )
    (variant,) = workflow.variants_called(Project.find(folder.parent), [])
    assert LocalTarget().blocked(variant) == (
        "no Python on this machine satisfies `base.python` ==3.29.*;"
        " `uv python install 3.29` installs one"
    )
