from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.spec import load_variants, validated
from builder.spec.models import VariantFile
from tests.support.samples import problems

ROOT = Path(validated.__file__).resolve().parents[1]
SPEC = """schema = 1
name = "sample"
description = "ünïcode"
[env]
A = "a"
[python]
packages = ["attrs"]
[[run]]
command = "true"
env = { B = "b" }
[[verify]]
name = "a check"
code = "print(1)"
"""
LOAD = """
import sys
from pathlib import Path
from builder.spec import load_variants, validated
print(load_variants(Path(sys.argv[1])))
sys.exit("pydantic" in sys.modules)
"""


@pytest.fixture
def folder(tmp_path: Path, own_cache: Path) -> Path:
    """A variants folder with one spec, and its own cache."""
    variants = tmp_path / "variants"
    variants.mkdir()
    (variants / "sample.toml").write_text(SPEC)
    return variants


@pytest.fixture
def validations(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The documents that have been validated."""
    seen: list[object] = []
    validate = VariantFile.model_validate

    def noted(document: object) -> VariantFile:
        seen.append(document)
        return validate(document)

    monkeypatch.setattr(VariantFile, "model_validate", noted)
    return seen


def kept(cache: Path) -> Path:
    (path,) = (cache / "specs").iterdir()
    return path


def test_valid_specs_are_loaded_without_pydantic(folder: Path) -> None:
    """The second process that loads the same specs gets the same variants without pydantic."""
    command = [sys.executable, "-c", LOAD, str(folder)]
    first, second = (
        subprocess.run(command, capture_output=True, text=True, check=False) for _ in range(2)
    )
    assert (first.returncode, second.returncode) == (1, 0), first.stderr + second.stderr
    assert first.stdout == second.stdout


@pytest.mark.slow
def test_a_plan_of_unchanged_specs_needs_no_pydantic(own_cache: Path) -> None:
    """The second plan of the same specs loads no pydantic, even if there is something to do."""
    program = (
        "import sys; from builder.cli.app import run; code = run(sys.argv[1:]);"
        " sys.exit(code or 'pydantic' in sys.modules)"
    )
    arguments = ["plan", "--frozen", "--target", "local", "--project", str(ROOT.parent)]
    command = [sys.executable, "-c", program, *arguments]
    codes = [subprocess.run(command, check=False).returncode for _ in range(2)]
    assert codes == [1, 0]


def test_all_tables_come_back_as_they_were(folder: Path, validations: list[object]) -> None:
    """Variants are equal whether their specs were validated in this run or in an earlier run."""
    new = load_variants(folder)
    assert (load_variants(folder), len(validations)) == (new, 1)
    assert json.loads(new[0].stages[0].declared) == {
        "env": {"A": "a"},
        "python": {"packages": ["attrs"]},
        "run": [{"command": "true", "env": {"B": "b"}}],
        "verify": [{"name": "a check", "code": "print(1)"}],
    }


def test_changed_spec_is_validated(folder: Path) -> None:
    """A mistake in a spec that was valid before is reported."""
    load_variants(folder)
    (folder / "sample.toml").write_text(SPEC.replace('"a"', "3"))
    assert problems(folder) == ["variants/sample.toml:5:1: `env.A`: expected a string, found 3"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content.replace(b"attrs", b"numpy"),
        lambda content: content.partition(b"\n")[0],
        lambda _: b"",
        lambda _: b"\xff\n[[",
    ],
)
def test_damaged_file_is_ignored(
    folder: Path, own_cache: Path, damage: Callable[[bytes], bytes], validations: list[object]
) -> None:
    """A damaged file of the cache changes nothing, and is written again."""
    new = load_variants(folder)
    path = kept(own_cache)
    content = path.read_bytes()
    path.write_bytes(damage(content))
    assert (load_variants(folder), len(validations)) == (new, 2)
    assert path.read_bytes() == content


def test_unusable_cache_is_ignored(
    folder: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Specs are loaded even if the cache cannot be written, and without a home folder."""
    own_cache.write_text("not a folder")
    assert [variant.name for variant in load_variants(folder)] == ["sample"]
    monkeypatch.delenv("TEMPLATE_BUILDER_CACHE_DIR")
    monkeypatch.setenv("HOME", "relative")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert [variant.name for variant in load_variants(folder)] == ["sample"]


def test_other_program_validates_anew(
    folder: Path, validations: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A result of another Python, or of another version of a module, is not used."""
    load_variants(folder)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "version", "another")
        load_variants(folder)
    monkeypatch.setattr("builder.spec.validated._VALIDATORS", ("packaging",))
    load_variants(folder)
    assert len(validations) == 3


def test_secret_of_today_is_reported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The value of a secret variable is reported, even if the spec was valid before the variable
    was set."""
    (folder / "sample.toml").write_text(SPEC.replace("ünïcode", "correct-horse"))
    load_variants(folder)
    monkeypatch.setitem(os.environ, "MY_TOKEN", "correct-horse")
    (problem,) = problems(folder)
    assert problem.startswith(
        "variants/sample.toml:3:1: `description`: contains the value of `MY_TOKEN` in this"
    )


def test_a_variable_of_a_spec_is_no_table(folder: Path) -> None:
    """Variables may have the names of fields of models."""
    (folder / "sample.toml").write_text(SPEC.replace("[env]\n", "[env]\nmodel_fields_set = 'x'\n"))
    assert [variant.env for variant in (*load_variants(folder), *load_variants(folder))] == [
        {"model_fields_set": "x", "A": "a"}
    ] * 2


def test_all_that_validates_decides() -> None:
    """A change of any module that validators use makes specs be validated again."""
    decisive = {path.resolve() for path in validated._validators()}
    places = {f"builder.{path.relative_to(ROOT).with_suffix('')}" for path in ROOT.rglob("*.py")}
    modules = {place.replace("/", ".") for place in places}
    # Not: constants, the schema of another format, and what keeps the outcome.
    others = ("spec.variant", "registry.model", "spec.validated")
    todo, seen = ["builder.spec.parse"], {f"builder.{name}" for name in others}
    while todo:
        path = ROOT.joinpath(*todo[-1].split(".")[1:]).with_suffix(".py")
        assert path in decisive
        seen.add(todo.pop())
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("builder"):
                names = {str(node.module), *(f"{node.module}.{each.name}" for each in node.names)}
                todo += sorted(names & modules - seen)
