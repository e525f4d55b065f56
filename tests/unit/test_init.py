from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from builder.cli.init_command import default_name, init
from builder.errors import USAGE, ProjectError
from builder.spec import load_variants
from tests.conftest import ROOT, Command


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file below a folder, with its content and when it was written."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def made(tmp_path: Path, name: str = "My Tools!") -> Path:
    folder = tmp_path / name
    folder.mkdir()
    return folder


@pytest.mark.parametrize("arguments", [[], ["my-tools"], ["--ci", "github"]])
def test_second_run_changes_nothing(tmp_path: Path, command: Command, arguments: list[str]) -> None:
    """Every file that is there is kept as it is, and said."""
    folder = made(tmp_path)
    assert command("init", *arguments, cwd=folder).returncode == 0
    before = files(folder)
    again = command("init", *arguments, cwd=folder)
    assert again.returncode == 0
    assert "wrote" not in again.stdout
    assert "kept  variants/_base.toml" in again.stdout
    assert files(folder) == before


def test_nothing_is_overwritten(tmp_path: Path, command: Command) -> None:
    """Whatever has the name of a file of the project stays: a file, a link to nowhere, a folder."""
    folder = made(tmp_path)
    (folder / "variants").mkdir()
    (folder / "variants" / "_base.toml").write_text("mine")
    (folder / "variants" / "a.toml").symlink_to("nowhere")
    (folder / "schemas" / "variant.schema.json").mkdir(parents=True)
    (folder / ".github" / "workflows").mkdir(parents=True)
    (folder / ".github" / "workflows" / "templates.yml").write_text("mine")
    before = files(folder)
    done = command("init", "a", "--ci", "github", "--json", cwd=folder)
    assert json.loads(done.stdout) == {
        "name": "a",
        "written": ["schemas/registry.schema.json", ".gitignore"],
        "kept": [
            "variants/_base.toml",
            "variants/a.toml",
            "schemas/variant.schema.json",
            ".github/workflows/templates.yml",
        ],
    }
    after = files(folder)
    assert {name: after[name] for name in before} == before
    assert (folder / "variants" / "a.toml").is_symlink()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, b".builder/\n"),
        (b"", b".builder/\n"),
        (b"*.log", b"*.log\n.builder/\n"),
        (b"*.log\r\n", b"*.log\r\n.builder/\r\n"),
        (b"caf\xe9\n", b"caf\xe9\n.builder/\n"),
        (b"/.builder\n*.log\n", b"/.builder\n*.log\n"),
    ],
)
def test_gitignore_gets_one_line(
    tmp_path: Path, command: Command, before: bytes | None, after: bytes
) -> None:
    """What is never committed is ignored by one more line, unless it is already; mode and line
    ends of the file stay."""
    folder = made(tmp_path)
    path = folder / ".gitignore"
    if before is not None:
        path.write_bytes(before)
        path.chmod(0o600)
    assert command("init", cwd=folder).returncode == 0
    assert path.read_bytes() == after
    assert path.stat().st_mode & 0o777 == (0o644 if before is None else 0o600)


def test_variant_is_added_to_a_project(project: Path, command: Command) -> None:
    """In a project that exists, NAME is one more variant; without it, none is added, and a name that
    a file has already is not given to a second one."""
    before = files(project)
    assert "variants/project.toml" not in command("init", cwd=project).stdout
    other = project / "variants" / "other.toml"
    other.rename(project / "variants" / "another.toml")
    assert "kept  variants/another.toml\n" in command("init", "other", cwd=project).stdout
    assert "wrote variants/new.toml" in command("init", "new", cwd=project).stdout
    valid = command("validate", "--json", cwd=project)
    assert [one["name"] for one in json.loads(valid.stdout)] == ["light", "new", "other"]
    base = "variants/_base.toml"
    assert files(project)[base] == before[base]


def test_project_elsewhere(tmp_path: Path, command: Command) -> None:
    """--project names the folder, which is made; the next commands name it, too."""
    done = command("init", "tools", "--project", "a b/c", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.endswith("next:\n  template-builder plan --project 'a b/c'\n"
                                "  template-builder build --project 'a b/c'\n")  # fmt: skip
    assert command("validate", "--project", "a b/c", cwd=tmp_path).returncode == 0
    inside = command("init", cwd=tmp_path / "a b" / "c" / "variants")
    assert inside.returncode == ProjectError.exit_code
    assert inside.stderr.startswith(f"error: {tmp_path}/a b/c/variants is the folder of the specs")


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("tools", "tools"),
        ("My Tools!", "my-tools"),
        ("Café_2.0", "cafe_2-0"),
        ("_private-", "private"),
        ("数据", "template"),
        ("", "template"),
        ("caf\udce9", "caf"),
        ("x" * 200, "x" * 128),
    ],
)
def test_name_of_the_folder_becomes_that_of_a_template(folder: str, name: str) -> None:
    """Any folder's name makes a valid one."""
    assert default_name(folder) == name


@pytest.mark.parametrize("name", ["3d-tools", "template", "shared-tools"])
def test_name_that_no_file_of_a_spec_may_have(tmp_path: Path, name: str) -> None:
    """A name that would be none of a stage is that of a template all the same."""
    init(name, project=tmp_path)
    (variant,) = load_variants(tmp_path / "variants")
    assert (variant.name, variant.stem) == (name, f"spec-{name}")


@pytest.mark.parametrize("name", ["My Tools", "_base", "Café", "a/b", "..", "x" * 129])
def test_name_that_is_not_allowed(tmp_path: Path, command: Command, name: str) -> None:
    """A bad name is refused before anything is written, with what is allowed and one like it."""
    folder = made(tmp_path)
    done = command("init", name, cwd=folder)
    assert done.returncode == USAGE
    assert files(folder) == {}
    told = re.sub(r"[\s│]+", " ", done.stderr)
    assert "is not a template name: use a-z, 0-9, - and _, at most 128 characters" in told
    assert default_name(name)[:40] in told


def test_workflow_has_the_job_of_the_docs(tmp_path: Path, command: Command) -> None:
    """`--ci github` writes the nightly job of the page about the registry, and the checks."""
    folder = made(tmp_path)
    assert command("init", "--ci", "github", cwd=folder).returncode == 0
    text = (folder / ".github" / "workflows" / "templates.yml").read_text()
    workflow = yaml.safe_load(text)
    page = (ROOT / "docs" / "registry.md").read_text()
    (documented,) = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    rebuild = yaml.safe_load(documented)["jobs"]["rebuild"]
    jobs = workflow["jobs"]
    assert {k: v for k, v in jobs["rebuild"].items() if k not in ("if", "concurrency")} == rebuild
    assert jobs["check"]["steps"][-1]["run"].splitlines() == [
        "template-builder validate",
        "template-builder render --check",
        "template-builder schema --check",
    ]
    assert "defaults" not in workflow


@pytest.mark.needs("git")
def test_workflow_of_a_project_within_a_repository(tmp_path: Path, command: Command) -> None:
    """In a folder of a repository the workflow belongs to the repository, and runs in the folder."""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    folder = made(tmp_path, "a b")
    done = command("init", "--ci", "github", cwd=folder)
    assert "wrote ../.github/workflows/templates.yml" in done.stdout
    workflow = yaml.safe_load((tmp_path / ".github/workflows/templates.yml").read_text())
    assert workflow["defaults"] == {"run": {"working-directory": "a b"}}
