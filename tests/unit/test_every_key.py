"""Every key of a spec is documented, shown, planned and rendered, and its value adds no
instruction."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import tomllib
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from e2b_dockerfile_utils import parse_dockerfile_ast
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from builder.errors import SpecError
from builder.plan.inputs import inputs_of
from builder.render import Rendered
from builder.spec.addresses import wheel_of
from builder.spec.models import VariantFile
from builder.spec.settings import as_toml, settings_of
from tests.conftest import ROOT
from tests.support.every_key import (
    CASES,
    FILES,
    NOT_DECLARED,
    NOT_IN_TEMPLATE_TOML,
    Case,
    rendered,
    with_files,
)
from tests.support.options import rounds


def keys_of(model: type[BaseModel], *above: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        key = (*above, field.alias or name.replace("_", "-"))
        kinds = (field.annotation, *typing.get_args(field.annotation))
        tables = [each for each in kinds if isinstance(each, type) and issubclass(each, BaseModel)]
        if tables:
            yield from keys_of(tables[0], *key)
        else:
            yield ".".join(key)


def test_every_key_is_here() -> None:
    """The cases of this module cover all keys of a spec."""
    assert {case.key for case in CASES} == {*keys_of(VariantFile)} - {"schema"}


def test_every_key_is_in_the_schema_and_the_reference() -> None:
    """Each key has a type and a description in the schema, and a row in the reference."""
    document = json.loads((ROOT / "schemas" / "variant.schema.json").read_text())
    page = (ROOT / "docs" / "spec.md").read_text()
    for name in keys_of(VariantFile):
        *above, last = name.split(".")
        table = document
        for part in above:
            field = table["properties"][part]
            reference = field.get("items", field)["$ref"]
            table = document["$defs"][reference.rpartition("/")[2]]
        assert table["properties"][last]["description"], name
        assert {"type", "const", "enum", "oneOf", "$ref"} & set(table["properties"][last]), name
        title = "## Top level" if not above else f"{'.'.join(above)}]"
        section = page[page.index(title) :].partition("\n## ")[0]
        assert f"\n| `{last}` | " in section, name


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.key)
def test_every_key_is_shown_planned_and_rendered(tmp_path: Path, case: Case) -> None:
    """`config` shows the value of a key with its place. Another value changes template.toml, the
    files of the case and the digest, and a plan names it."""
    before = case.text(case.before) if case.before else case.text("").replace("before = \n", "")
    old, new = rendered(tmp_path / "a", before), rendered(tmp_path / "b", case.text(case.after))
    resolved = as_toml(settings_of(new.variant))
    alone = tomllib.loads(resolved)
    written = tomllib.loads(case.text(case.after))
    for part in case.key.split("."):
        alone, written = (
            (table[0] if isinstance(table, list) else table)[part] for table in (alone, written)
        )
    assert alone == written
    assert "  # variants/leaf.toml:" in resolved
    differing = {
        path
        for path in {file.path for file in (*old.files, *new.files)}
        if content(old, path) != content(new, path)
    }
    in_template = set() if case.key in NOT_IN_TEMPLATE_TOML else {"template.toml"}
    assert (declared(old) == declared(new)) is (case.key in NOT_DECLARED)
    assert differing == in_template | {*case.files.split()}
    inputs = [{**inputs_of(each)["spec"], **inputs_of(each)["base"]} for each in (old, new)]
    assert case.plan is None or case.plan in dict(inputs[0].items() ^ inputs[1].items())


def declared(rendered: Rendered) -> dict[str, Any]:
    """Return template.toml without its lock."""
    document = tomllib.loads(rendered.content("template.toml").decode())
    return {key: value for key, value in document.items() if key != "lock"}


def content(rendered: Rendered, path: str) -> bytes | None:
    return next((file.content for file in rendered.files if file.path == path), None)


CHOICES = ("run.user", "run.before", "download.owner", "warmup.level")
TEXTS = [case for case in CASES if case.before.startswith('"') and case.key not in CHOICES]
SOURCES = ("files.source", "run.script", "run.inputs", "system.repository.key")
TOKENS = [
    "\n", "\r", "\t", " ", "  #", "'", '"', "\\", "\\\n", ";", "&", "|", "(", ")", "<", ">", "*", "?", "~",
    "!", "%s", "$$", "$$(id)", "$PATH", "${PATH}", "`id`", "{{ 7 }}", "\nRUN id", "\x00", "\x7f", "\x85",
    "\u2028", "<<EOF", "--x", "é", "[", "]", ",", "@", "=",
]  # fmt: skip


@pytest.fixture(scope="module")
def attempt(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case, str], list[object]]:
    """Return a function that renders a case with a value, and returns the shape of the
    Dockerfile."""
    shared = tmp_path_factory.mktemp("shared")

    def shape_of(case: Case, value: str) -> list[object]:
        folder = shared
        if case.key in SOURCES:
            folder = tmp_path_factory.mktemp("own")
            create(with_files(folder), value)
        return shape(rendered(folder, case.text(toml(value))), case.key)

    return shape_of


@pytest.fixture(scope="module")
def expected(attempt: Callable[[Case, str], list[object]]) -> list[list[object]]:
    """Return the shape of each case with its first value."""
    return [attempt(case, json.loads(case.before)) for case in TEXTS]


@pytest.mark.chance
@settings(max_examples=rounds(20), suppress_health_check=[HealthCheck.too_slow])
@given(
    place=st.integers(0, 20),
    width=st.integers(0, 2),
    between=st.lists(
        st.sampled_from(TOKENS) | st.characters(exclude_categories=["Cs"]), min_size=1, max_size=3
    ).map("".join),
)
def test_no_value_of_any_key_adds_or_alters_an_instruction(
    place: int,
    width: int,
    between: str,
    attempt: Callable[[Case, str], list[object]],
    expected: list[list[object]],
) -> None:
    """Any value of a key is refused, or leaves the Dockerfile's instructions, and the words and
    expansions that their shells read, as they are."""
    for case, unchanged in zip(TEXTS, expected, strict=True):
        valid = json.loads(case.before)
        start = min(place, len(valid))
        value = valid[:start] + between + valid[start + width :]
        if form(value) == form(valid):
            with contextlib.suppress(SpecError):
                assert attempt(case, value) == unchanged, (case.key, value)


def toml(value: str) -> str:
    return json.dumps(value).replace("\x7f", "\\u007f")


def form(value: str) -> tuple[bool, ...]:
    """Return the form of a key's value: a folder, an address, a wheel of the project, or another.
    Each form has its own instructions."""
    return (not value, value.endswith("/"), "://" in value, bool(wheel_of(value)))


def create(folder: Path, path: str) -> None:
    """Create a file, which can also be the key of a repository, if the path is possible below the
    folder."""
    with contextlib.suppress(OSError, ValueError):
        place = folder / path
        if place.resolve().is_relative_to(folder.resolve()) and not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(FILES["files/k.asc"])


def shape(rendered: Rendered, key: str) -> list[object]:
    """Return the name of each instruction, its number of arguments, and the words and expansions
    that its shell reads. A command of the spec itself only counts as an argument."""
    parsed = parse_dockerfile_ast(rendered.content("Dockerfile").decode())
    assert not any(instruction.heredocs for instruction in parsed.instructions)
    result: list[object] = []
    for instruction in parsed.instructions:
        result.append((instruction.name.upper(), instruction.json, len(instruction.args)))
        if instruction.name.upper() == "RUN" and key != "run.command":
            text = instruction.args[-1]
            words = shlex.shlex(text, posix=True, punctuation_chars=True)
            words.whitespace_split, words.commenters = True, ""
            unquoted = re.sub("'[^']*'", "", text.replace("'\"'\"'", ""))
            unquoted = re.sub(r'"\$\w+"', "", unquoted)  # a reference, which the lock checks
            result.append((len([*words]), unquoted.count("$"), unquoted.count("`")))
    return result
