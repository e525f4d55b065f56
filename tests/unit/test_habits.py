"""The files around the code name sessions, versions and tools that exist."""

from __future__ import annotations

import json
import re
import tomllib
from importlib import metadata
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PINS = {
    requirement.name: requirement
    for line in (ROOT / "requirements-dev.txt").read_text().splitlines()
    if not line.startswith("#")
    for requirement in [Requirement(line)]
}
WORKFLOWS = sorted((ROOT / ".github" / "workflows").iterdir())


def runs(document: Any) -> str:
    """Return every command of a workflow."""
    steps = [step for job in document["jobs"].values() for step in job["steps"]]
    return "\n".join(step["run"] for step in steps if "run" in step)


def test_every_development_tool_is_pinned_within_what_is_declared() -> None:
    """A tool of a dependency group that neither the project nor its dependencies require has a pin,
    and the pin satisfies the group."""
    extras = PROJECT["project"]["optional-dependencies"].values()
    dependencies = [
        *PROJECT["project"]["dependencies"],
        *(line for extra in extras for line in extra),
    ]
    direct = [Requirement(line).name for line in dependencies]
    theirs = [Requirement(line) for name in direct for line in metadata.requires(name) or ()]
    free = {*direct, *(tool.name for tool in theirs if "extra" not in str(tool.marker))}
    declared = [
        Requirement(line)
        for group in PROJECT["dependency-groups"].values()
        for line in group
        if isinstance(line, str)
    ]
    for tool in declared:
        if tool.name in free:
            continue
        (pin,) = PINS[tool.name].specifier
        assert pin.operator == "=="
        assert tool.specifier.contains(Version(pin.version)), tool


def test_pre_commit_runs_the_pinned_version_of_ruff() -> None:
    """The hooks and `nox -s lint` format alike."""
    text = (ROOT / ".pre-commit-config.yaml").read_text()
    assert set(re.findall(r"ruff==([\d.]+)", text)) == {str(PINS["ruff"].specifier)[2:]}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_call_sessions_that_exist(path: Any) -> None:
    """Every `nox -s` of a workflow names sessions of the noxfile."""
    document = yaml.safe_load(path.read_text())
    sessions = re.findall(
        r"^@nox\.session.*\ndef (\w+)", (ROOT / "noxfile.py").read_text(), re.MULTILINE
    )
    called = [
        name for names in re.findall(r"nox -s ([\w ]+)", runs(document)) for name in names.split()
    ]
    assert set(called) <= set(sessions)


def test_ci_tests_each_python_that_the_project_declares() -> None:
    """The versions in the classifiers are those of the workflow's matrix, on Linux, and macOS is there."""
    document = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    matrix = document["jobs"]["tests"]["strategy"]["matrix"]
    classifiers = "\n".join(PROJECT["project"]["classifiers"])
    assert matrix["python"] == re.findall(r"Python :: (3\.\d+)", classifiers)
    assert [entry["os"] for entry in matrix["include"]] == ["macos-latest"]


def test_forms_and_the_dev_container_can_be_parsed() -> None:
    """Every form has a name and fields, and the dev container is JSON."""
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(path.read_text())
        if path.stem != "config":
            assert form["name"]
            assert all(field["attributes"]["label"] for field in form["body"])
    assert json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())["image"]


def test_contributing_explains_each_session_and_names_files_that_exist() -> None:
    """CONTRIBUTING.md has a row for every session that proves something, and its walk leads through
    modules of `builder/`."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    sessions = text.partition("## Sessions")[2].partition("\n## ")[0]
    proving = {"lint", "types", "unit", "tests", "slow", "soak", "oldest_sdk", "coverage", "wheel", "docs", "bench"}  # fmt: skip
    assert set(re.findall(r"^\| `(\w+)` \|", sessions, re.MULTILINE)) == proving
    walk = text.partition("## One walk")[2].partition("\n## ")[0]
    for name in re.findall(r"`((?:\w+/)+(?:\w+\.py)?)`", walk):
        if name != "variants/":
            assert (ROOT / "builder" / name).exists(), name
