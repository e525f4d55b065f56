from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.system import provenance

pytestmark = pytest.mark.needs("git")

Repository = Callable[[str], tuple[Path, str]]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """Make a repository with one committed variant; returns its folder and that commit."""

    def make(name: str) -> tuple[Path, str]:
        folder = tmp_path / name
        (folder / "variants").mkdir(parents=True)
        (folder / "variants" / "a.toml").write_text(f"schema = 1\nname = '{name}'\n")
        (folder / "registry.json").write_text(f'{{"é": "{name}"}}', encoding="utf-8")
        git = ["git", "-c", "user.name=A", "-c", "user.email=a@b", "-C", str(folder)]
        for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", name]):
            subprocess.run([*git, *arguments], check=True)
        head = [*git, "rev-parse", "HEAD"]
        done = subprocess.run(head, check=True, capture_output=True, text=True)
        return folder, done.stdout.strip()

    return make


def test_provenance_is_that_of_the_folder_in_a_hook_of_another_repository(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every variable by which git is led to another repository or its settings is ignored."""
    mine, commit = repository("mine")
    other, another_commit = repository("other")
    assert commit != another_commit
    expected = {"commit": commit, "dirty": False}
    leading = {
        "GIT_DIR": other / ".git",
        "GIT_WORK_TREE": other,
        "GIT_INDEX_FILE": other / ".git" / "index",
        "GIT_COMMON_DIR": other / ".git",
        "GIT_OBJECT_DIRECTORY": other / ".git" / "objects",
        "GIT_NAMESPACE": "other",
        "GIT_PREFIX": "variants/",
        "GIT_CONFIG": other / ".git" / "config",
        "GIT_CONFIG_PARAMETERS": "'core.bare'='true'",
        "GIT_CEILING_DIRECTORIES": mine,
        "GIT_LITERAL_PATHSPECS": "yes",
        "GIT_SHALLOW_FILE": other / "nothing",
    }
    listed = subprocess.run(
        ["git", "rev-parse", "--local-env-vars"], check=True, capture_output=True, text=True
    ).stdout.split()
    for name in {*listed, *leading} - {"GIT_CONFIG_COUNT"}:
        with monkeypatch.context() as changed:
            changed.setenv(name, str(leading.get(name, other / ".git")))
            assert provenance.source(mine) == expected, name
    for name, value in leading.items():
        monkeypatch.setenv(name, str(value))
    assert provenance.source(mine) == expected
    assert provenance.committed(mine / "registry.json") == '{"é": "mine"}'


def test_git_keeps_what_a_user_configures(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Git's settings in the environment, such as a name, are still obeyed."""
    mine, _ = repository("mine")
    for name in ("TEMPLATE_ACTOR", "GITHUB_ACTOR", "GITLAB_USER_LOGIN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_COUNT", "2")
    for number, (key, value) in enumerate({"user.name": "Ann", "user.email": "a@b"}.items()):
        monkeypatch.setenv(f"GIT_CONFIG_KEY_{number}", key)
        monkeypatch.setenv(f"GIT_CONFIG_VALUE_{number}", value)
    assert provenance.actor(mine) == "Ann <a@b>"


def test_untracked_spec_is_an_edit(repository: Repository) -> None:
    """A new spec makes the state dirty, also where `git status` is set to leave out new files."""
    mine, commit = repository("mine")
    hide = ["git", "-C", str(mine), "config", "status.showUntrackedFiles", "no"]
    subprocess.run(hide, check=True)
    (mine / "variants" / "b.toml").write_text("schema = 1\nname = 'b'\n")
    assert provenance.source(mine) == {"commit": commit, "dirty": True}


def test_looking_leaves_the_index_alone(repository: Repository) -> None:
    """Asking git writes nothing, so that it never meets a command of the user's."""
    mine, _ = repository("mine")
    os.utime(mine / "variants" / "a.toml", (1, 1))  # the index is to be refreshed
    index = mine / ".git" / "index"
    before = index.read_bytes()
    assert provenance.source(mine)["dirty"] is False
    assert index.read_bytes() == before


def test_no_git_is_no_provenance(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where git is not installed nothing is recorded of it, and nothing fails."""
    mine, _ = repository("mine")
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setenv("GIT_DIR", str(mine / ".git"))
    assert provenance.source(mine) == {}
    assert provenance.committed(mine / "registry.json") is None
