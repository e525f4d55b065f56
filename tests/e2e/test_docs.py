from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import typer.main
import yaml

from builder import registry
from builder.cli.app import program
from tests.conftest import ROOT
from tests.support import engine
from tests.support.clouds import FILES
from tests.support.e2b_server import Server
from tests.support.object_store import Store
from tests.support.pages import blocks
from tests.support.program import folder_of_program

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def commands(name: str) -> list[str]:
    return [
        line for kind, text in blocks(ROOT / name) if kind == "sh" for line in text.splitlines()
    ]


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


@pytest.mark.docker
@pytest.mark.network
def test_docker_page_runs_from_top_to_bottom(tmp_path: Path, run: Run) -> None:
    """Every block of the page about Docker does what it says, its settings being in force."""
    base = (ROOT / "variants" / "_base.toml").read_text()
    base = base.replace("e2bdev/code-interpreter:latest", engine.base_image())
    leaf = "schema = 1\nname = 'light'\nextends = '_base'\n[python]\npackages = ['six']\n"
    (tmp_path / "variants").mkdir()
    (tmp_path / "variants" / "_base.toml").write_text(base)
    (tmp_path / "variants" / "light.toml").write_text(leaf)
    found = blocks(ROOT / "docs" / "docker.md")
    (settings,) = [text for kind, text in found if kind == "toml"]
    (tmp_path / "pyproject.toml").write_text(settings)
    for text in [text for kind, text in found if kind == "sh"]:
        run("bash", "-euc", text)
    (light,) = json.loads((tmp_path / "plan.json").read_text())["variants"]
    assert light["program"]["steps"][0]["type"] == "RUN"


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


@pytest.mark.network
def test_spec_of_the_readme_builds(tmp_path: Path, run: Run) -> None:
    """The variant that the README shows first builds and holds up."""
    (text,) = [text for kind, text in blocks(ROOT / "README.md") if kind == "toml"]
    (tmp_path / "variants").mkdir()
    (tmp_path / "variants" / "_base.toml").write_text((ROOT / "variants/_base.toml").read_text())
    (tmp_path / "variants" / "data.toml").write_text(text)
    assert "tta-data-minimal  built" in run("template-builder", "build").stdout


def test_code_of_the_readme_runs(run: Run) -> None:
    """The README's first Python runs in a clone of the project, before anything is built."""
    text, _ = [text for kind, text in blocks(ROOT / "README.md") if kind == "python"]
    run(sys.executable, "-c", text, cwd=ROOT)


def test_readme_gives_the_commands_that_ci_runs() -> None:
    """The README has two commands, and CI runs its test command as it stands there."""
    build, tests = commands("README.md")
    assert build == "python -m pip install nox && python -m nox -s build_templates"
    assert tests == "python -m pip install nox && python -m nox -s tests"
    assert f"    {tests}\n" in (ROOT / ".ci" / "run").read_text()


def test_sessions_that_are_named_exist(run: Run) -> None:
    """Every nox session that a page mentions is in the noxfile."""
    defined = set(
        re.findall(r"@nox\.session\n(?:@.+\n)?def (\w+)", (ROOT / "noxfile.py").read_text())
    )
    for page in PAGES:
        for words in re.findall(r"nox -s ([\w ]+)", page.read_text()):
            assert set(words.split()) <= defined, page


def test_commands_that_are_named_exist() -> None:
    """Every `template-builder` command line on a page has a command and options that exist."""
    known = typer.main.get_command(program()).commands  # type: ignore[attr-defined]
    for page in PAGES:
        inline = re.findall(r"`template-builder ((?!\[)[^`|\n]*)", page.read_text())
        in_blocks = re.findall(
            r"template-builder ((?!\[)[^`|\n]*)",
            "".join(text for kind, text in blocks(page) if kind in {"sh", "yaml", ""}),
        )
        for line in (*inline, *in_blocks):
            words = [word for word in shlex.split(line, comments=True) if not word.startswith("[")]
            if not words or not re.fullmatch(r"[a-z]+", words[0]) or page.name == "CHANGELOG.md":
                continue
            assert words[0] in known, (page, line)
            command = known[words[0]]
            if inner := getattr(command, "commands", None):
                assert words[1] in inner, (page, line)
                command = inner[words[1]]
            options = {f for param in command.params for f in (*param.opts, *param.secondary_opts)}
            assert {w for w in words if w.startswith("-")} <= options | {"--help"}, (page, line)


def test_every_command_is_documented() -> None:
    """The page of commands has a section for every command there is."""
    page = (ROOT / "docs" / "commands.md").read_text()
    for name in typer.main.get_command(program()).commands:  # type: ignore[attr-defined]
        assert f"\n## `template-builder {name}" in page


def test_generated_pages_are_up_to_date(run: Run) -> None:
    """The reference pages are what the program says of itself today."""
    run(sys.executable, str(ROOT / "docs" / "generate.py"), "--check")


def test_links_lead_somewhere() -> None:
    """Every relative link on a page leads to a file or folder that exists."""
    for page in PAGES:
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), (page, target)


def test_toml_of_every_page_is_valid() -> None:
    """No TOML block on any page is broken."""
    for page in PAGES:
        for kind, text in blocks(page):
            if kind == "toml":
                tomllib.loads(text)
