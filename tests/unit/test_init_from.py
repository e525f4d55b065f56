from __future__ import annotations

from pathlib import Path

import pytest

from builder.cli.init_command import init
from builder.errors import SelectionError, SourceError
from builder.spec import load_variants
from tests.conftest import Command

KINDS = "a Dockerfile, an e2b.toml, a requirements.txt, a pyproject.toml or an environment.yml"


def test_spec_is_written_with_its_files(tmp_path: Path, command: Command) -> None:
    """The spec, the files that it copies and the schemas are written; what is left out is printed,
    and stands in the spec; the result is valid."""
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker/e2b.Dockerfile").write_text(
        "FROM e2bdev/code-interpreter:latest\nRUN pip install idna\nCOPY run.sh /opt/\nLABEL a=b\n"
    )
    (tmp_path / "docker/run.sh").write_text("#!/bin/sh\n")
    (tmp_path / "docker/run.sh").chmod(0o755)
    done = command("init", "tools", "--from", "docker/e2b.Dockerfile")
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "wrote variants/tools.toml",
        "wrote schemas/registry.schema.json",
        "wrote schemas/variant.schema.json",
        "wrote variants/tools/opt/run.sh",
        "wrote .gitignore",
        "not taken over, or not in the same way:",
        "  e2b.Dockerfile:4: `LABEL a=b`: labels are not part of a sandbox",
        "next:",
        "  template-builder plan",
        "  template-builder build",
    ]
    assert (tmp_path / "variants/tools.toml").read_text() == (
        "#:schema ../schemas/variant.schema.json\n"
        "# Converted from e2b.Dockerfile. Not taken over, or not in the same way:\n"
        "# - e2b.Dockerfile:4: `LABEL a=b`: labels are not part of a sandbox\n"
        'schema = 1\nname = "tools"\n\n[python]\npackages = ["idna"]\n\n[[files]]\n'
        'source = "tools/opt/run.sh"\ntarget = "/opt/run.sh"\nmode = "0755"\n'
    )
    assert (tmp_path / "variants/tools/opt/run.sh").stat().st_mode & 0o111
    assert command("validate").returncode == 0


@pytest.mark.parametrize(
    ("file", "text", "name"),
    [
        ("e2b.toml", 'template_name = "Big Tools"\ndockerfile = "x"\n', "big-tools"),
        ("pyproject.toml", '[project]\nname = "Big_Tools"\n', "big_tools"),
        ("environment.yml", "name: Big.Tools\ndependencies: [{pip: [idna]}]\n", "big-tools"),
        ("requirements.txt", "idna\n", "my-project"),
        ("image.Dockerfile", "FROM python:3.13\n", "my-project"),
    ],
)
def test_name(tmp_path: Path, file: str, text: str, name: str) -> None:
    """Without NAME, the template is called as in the source, else like the folder."""
    folder = tmp_path / "My Project"
    folder.mkdir()
    (folder / file).write_text(text)
    init(project=folder, source=folder / file)
    assert [variant.name for variant in load_variants(folder / "variants")] == [name]
    assert (folder / f"variants/{name}.toml").is_file()


def test_notes_are_values(tmp_path: Path) -> None:
    """With --json, each note has its file, line, text and reason."""
    (tmp_path / "requirements.txt").write_text("idna\n--pre\n")
    result = init("tools", project=tmp_path, source=tmp_path / "requirements.txt")
    assert isinstance(result.json, dict)
    assert result.json["not_taken_over"] == [
        {
            "file": "requirements.txt",
            "line": 2,
            "text": "--pre",
            "reason": "a pre-release is taken if a bound names one, as in `torch>=3.0rc1`",
        }
    ]


def test_links_that_lead_out_are_not_followed(tmp_path: Path) -> None:
    """What a link leads to is copied if it is in the folder of the source, and else taken for
    absent."""
    source = tmp_path / "source"
    (source / "app").mkdir(parents=True)
    (tmp_path / "foreign").write_text("foreign")
    (source / "own").write_text("own")
    for name, target in (("out", "../foreign"), ("app/out", "../../foreign"), ("app/in", "../own")):
        (source / name).symlink_to(target)
    (source / "Dockerfile").write_text(
        "FROM e2bdev/code-interpreter:latest\nCOPY out /opt/\nCOPY app /opt/app\n"
    )
    result = init("tools", project=tmp_path, source=source / "Dockerfile")
    assert isinstance(result.json, dict)
    assert [note["reason"] for note in result.json["not_taken_over"]] == ["there is no `out` here"]
    copied = [p for p in (tmp_path / "variants").rglob("*") if p.is_file() and p.suffix != ".toml"]
    assert [(path.name, path.read_text()) for path in copied] == [("in", "own")]


def test_spec_of_a_project_extends_its_base(project: Path) -> None:
    """In a project with a `_base`, a spec whose source names no image extends it."""
    (project / "requirements.txt").write_text("idna\n")
    init("more", project=project, source=project / "requirements.txt")
    assert 'extends = "_base"\n' in (project / "variants/more.toml").read_text()
    names = [variant.name for variant in load_variants(project / "variants")]
    assert names == ["light", "more", "other"]
    (project / "Dockerfile").write_text("FROM e2bdev/code-interpreter:latest\n")
    init("image", project=project, source=project / "Dockerfile")
    assert "extends" not in (project / "variants/image.toml").read_text()


def test_existing_spec_is_not_overwritten(project: Path) -> None:
    """A spec that is there already is an error before anything is written."""
    (project / "requirements.txt").write_text("idna\n")
    before = sorted(project.rglob("*"))
    with pytest.raises(SelectionError) as raised:
        init("light", project=project, source=project / "requirements.txt")
    assert str(raised.value) == (
        "there is already a spec `variants/light.toml`, and it is not overwritten\n\n"
        "hint: give the template another name: template-builder init NAME --from"
        f" {project}/requirements.txt"
    )
    assert sorted(project.rglob("*")) == before


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("requirement.txt", None, "there is no such file (did you mean `requirements.txt`?)"),
        ("folder", None, "is not a regular file"),
        ("notes.md", b"# Notes\n", f"expected {KINDS}"),
        ("poetry.lock", b"", f"expected {KINDS} (convert the pyproject.toml beside it)"),
        ("other.toml", b"a = 1\n", f"expected {KINDS}"),
        ("requirements.txt", b"\xff\xfe", f"is not UTF-8 text: expected {KINDS}"),
        ("Dockerfile", b"RUN a\n", "Dockerfile:1:1: `RUN`: is before the first FROM"),
        ("Dockerfile", b"", "Dockerfile:1:1: there is no FROM instruction"),
        ("pyproject.toml", b"a = \n", "is not valid TOML: Invalid value (at line 1, column 5)"),
        ("environment.yml", b"dependencies: [\n", "is not valid YAML: "),
    ],
)
def test_file_that_cannot_be_converted(
    tmp_path: Path, file: str, content: bytes | None, message: str
) -> None:
    """A file that is missing, of another kind or not valid is an error that says what is expected,
    and nothing is written."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "requirements.txt").write_text("idna\n")
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(SourceError) as raised:
        init(project=tmp_path, source=tmp_path / file)
    assert message in str(raised.value)
    assert "in the file to convert:\n" in str(raised.value)
    assert not (tmp_path / "variants").exists()
