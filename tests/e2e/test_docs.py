from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import yaml

from builder import registry
from tests.conftest import ROOT
from tests.support import engine
from tests.support.clouds import FILES
from tests.support.e2b_server import Server
from tests.support.object_store import Store
from tests.support.pages import blocks
from tests.support.prechecks import SERVICE, share_known
from tests.support.program import folder_of_program

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path, cache: Path) -> Run:
    """Run a block in the folder of this test, with the program on the path."""

    def run_block(*words: str, cwd: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        path = f"{folder_of_program()}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {"PATH": path, "TEMPLATE_BUILDER_CACHE_DIR": str(cache)}
        found = subprocess.run(
            words,
            capture_output=True,
            text=True,
            check=False,
            cwd=cwd,
            env=os.environ | environment,
        )
        assert found.returncode == 0, found.stdout + found.stderr
        return found

    return run_block


@pytest.mark.slow
@pytest.mark.needs("git")
@pytest.mark.network
def test_how_to_runs_from_top_to_bottom(tmp_path: Path, run: Run) -> None:
    """Every block of the how-tos does what it says, in the order in which it stands."""
    run("git", "init", "-q")
    for kind, text in blocks(ROOT / "docs" / "how-to.md"):
        if kind == "toml":
            name = re.match(r"# (variants/[\w-]+\.toml)\n", text)
            assert name, text
            (tmp_path / name[1]).parent.mkdir(exist_ok=True)
            (tmp_path / name[1]).write_text(text)
        elif kind == "sh":
            run("bash", "-euc", text)
        else:
            assert kind == "python", kind
            assert run(sys.executable, "-c", text).stdout.startswith("local:text-tools@sha256-")


@pytest.mark.slow
@pytest.mark.docker
@pytest.mark.network
def test_docker_page_runs_from_top_to_bottom(tmp_path: Path, run: Run, shared: Path) -> None:
    """Every block of the page about Docker does what it says, with the page's settings."""
    base = (ROOT / "variants" / "_base.toml").read_text()
    base += f'[base]\nimage = "{engine.base_image()}"\n{SERVICE}'
    leaf = "schema = 1\nname = 'page'\nextends = '_base'\n[python]\npackages = ['six']\n"
    (tmp_path / "variants").mkdir()
    (tmp_path / "variants" / "_base.toml").write_text(base)
    (tmp_path / "variants" / "page.toml").write_text(leaf)
    share_known(tmp_path, shared / "known")
    found = blocks(ROOT / "docs" / "docker.md")
    (settings,) = [text for kind, text in found if kind == "toml"]
    (tmp_path / "pyproject.toml").write_text(settings)
    for text in [text for kind, text in found if kind == "sh"]:
        run("bash", "-euc", text)
    (page,) = json.loads((tmp_path / "plan.json").read_text())["variants"]
    assert page["program"]["steps"][0]["type"] == "RUN"


@pytest.mark.slow
@pytest.mark.network
def test_e2b_page_runs_from_top_to_bottom(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every block of the page about E2B does what it says, on a server that speaks its protocol."""
    (tmp_path / "variants").mkdir()
    (tmp_path / "variants" / "_base.toml").write_text(FILES["_base"])
    leaf = "schema = 1\nname = 'light'\nextends = '_base'\n[python]\npackages = ['packaging']\n"
    (tmp_path / "variants" / "light.toml").write_text(leaf)
    (settings,) = [text for kind, text in blocks(ROOT / "docs" / "e2b.md") if kind == "toml"]
    with Server() as server:
        settings = re.sub(r"http://127\.0\.0\.1:\d+", server.url, settings)
        (tmp_path / "pyproject.toml").write_text(
            f'{settings}\n[tool.template-builder.precheck]\nwhen = "never"\n'
        )
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        for text in [text for kind, text in blocks(ROOT / "docs" / "e2b.md") if kind == "sh"]:
            run("bash", "-euc", text)
        monkeypatch.setenv("MY_E2B_API_KEY", server.key)
        run("template-builder", "build", "--target", "mine")
    assert server.problems == []
    entry = json.loads((tmp_path / "registry.json").read_text())["templates"]["light"]
    assert set(entry) == {"e2b", "mine"}


@pytest.mark.slow
@pytest.mark.needs("git")
@pytest.mark.network
def test_registry_page_runs_from_top_to_bottom(
    tmp_path: Path, run: Run, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every block of the page about the registry does what it says: the commands, the nightly job,
    and the settings, against a store that speaks S3's protocol."""
    for name, value in store.variables.items():
        monkeypatch.setenv(name, value)
    httpx.put(f"{store.endpoint}/my-team").raise_for_status()
    base = (ROOT / "variants" / "_base.toml").read_text()
    leaf = "schema = 1\nname = 'light'\nextends = '_base'\n[python]\npackages = ['six']\n"
    (tmp_path / "variants").mkdir()
    (tmp_path / "variants" / "_base.toml").write_text(base)
    (tmp_path / "variants" / "light.toml").write_text(leaf)
    for arguments in (
        ["init", "-q", "-b", "main"],
        ["init", "-q", "--bare", "upstream.git"],
        ["remote", "add", "origin", "upstream.git"],
        ["config", "push.autoSetupRemote", "true"],
        ["add", "variants"],
        ["-c", "user.name=A", "-c", "user.email=a@b", "commit", "-qm", "specs"],
        ["push", "-q"],
    ):
        run("git", *arguments)
    for kind, text in blocks(ROOT / "docs" / "registry.md"):
        if kind == "sh":
            run("bash", "-euc", text)
        elif kind == "toml":
            (tmp_path / "pyproject.toml").write_text(text)
        elif kind == "yaml":
            look, rebuild = yaml.safe_load(text)["jobs"]["rebuild"]["steps"][-2:]
            monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
            run("bash", "-euc", look["run"])
            assert (tmp_path / "output").read_text() == "code=0\n"  # the candidate is the latest
            run("bash", "-euc", rebuild["run"])
            assert "Rebuild templates" in run("git", "log", "origin/main").stdout
    assert json.loads((tmp_path / "light.cdx.json").read_text())["bomFormat"] == "CycloneDX"
    assert registry.resolve("my-old-one", path="s3://my-team/registry.json")


def test_code_of_the_readme_runs(run: Run) -> None:
    """The README's look-up runs in a clone of the project, before anything is built."""
    _, text = [text for kind, text in blocks(ROOT / "README.md") if kind == "python"]
    assert "registry.resolve" in text
    run(sys.executable, "-c", text, cwd=ROOT)
