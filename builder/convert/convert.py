"""Recognize the kind of a source, and convert it."""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING, Literal

from builder.convert.draft import Draft
from builder.convert.toml import Table
from builder.convert.values import Files
from builder.errors import Problem, SourceError
from builder.system.documents import parse_toml

if TYPE_CHECKING:
    from builder.convert.yaml import Value

_EXPECTED = "a Dockerfile, an e2b.toml, a requirements.txt, a pyproject.toml or an environment.yml"
# Files of other tools, and how they become one that is expected.
_EXPORTS = {
    "Pipfile": "pipenv requirements > requirements.txt",
    "Pipfile.lock": "pipenv requirements > requirements.txt",
    "poetry.lock": "convert the pyproject.toml beside it",
    "uv.lock": "convert the pyproject.toml beside it",
    "pixi.toml": "pixi project export conda-environment environment.yml",
    "setup.cfg": "python -m build --wheel, and add the wheel's name to a requirements.txt",
    "setup.py": "python -m build --wheel, and add the wheel's name to a requirements.txt",
    "docker-compose.yml": "convert the Dockerfile that it names",
}
_DOCKERFILE = re.compile(r"(?:.*\.)?(?:Docker|Container)file(?:\..*)?", re.IGNORECASE)
_INSTRUCTION = re.compile(r"\s*(?:#.*\n\s*)*(?:FROM|ARG)\s", re.IGNORECASE)


Kind = Literal["Dockerfile", "e2b.toml", "requirements", "pyproject", "conda"]


def convert(content: bytes, file: str, files: Files) -> Draft:
    """Return the spec that a file becomes, and the name that the file gives it.

    `files` are those of the source's folder, where it is called `file`. Raise `SourceError` if
    there is nothing that could be converted.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError([Problem(file, f"is not UTF-8 text: expected {_EXPECTED}")]) from error
    draft = Draft(file)
    match kind_of(file, text):
        case "Dockerfile":
            from builder.convert.dockerfile import convert_dockerfile

            convert_dockerfile(text, file, draft, files).take_over(draft)
        case "e2b.toml":
            from builder.convert.e2b_toml import convert_e2b_toml

            convert_e2b_toml(_table(text, file), draft, files)
        case "pyproject":
            from builder.convert.pyproject import convert_pyproject

            convert_pyproject(_table(text, file), draft)
        case "conda":
            from builder.convert.conda import convert_conda

            convert_conda(_yaml(text, file), draft, files)
        case "requirements":
            from builder.convert.requirements import convert_requirements

            convert_requirements(text, file, draft, files)
    return draft


def kind_of(file: str, text: str) -> Kind:
    """Return what a file is, by its name and, where that says nothing, by how it begins."""
    name = posixpath.basename(file)
    ending = name.rpartition(".")[2].lower()
    if name in _EXPORTS:
        raise SourceError([Problem(file, f"expected {_EXPECTED}", hint=_EXPORTS[name])])
    if _DOCKERFILE.fullmatch(name):
        return "Dockerfile"
    if ending == "toml":
        document = _table(text, file)
        if "project" in document or "tool" in document or name == "pyproject.toml":
            return "pyproject"
        if name == "e2b.toml" or document.keys() & {"dockerfile", "template_id", "start_cmd"}:
            return "e2b.toml"
    elif ending in ("yml", "yaml") and re.search(r"(?m)^dependencies\s*:", text):
        return "conda"
    elif ending in ("txt", "in"):
        return "requirements"
    elif _INSTRUCTION.match(text):
        return "Dockerfile"
    raise SourceError([Problem(file, f"expected {_EXPECTED}")])


def _table(text: str, file: str) -> Table:
    try:
        return Table(parse_toml(text), file, text)
    except ValueError as error:
        raise SourceError([Problem(file, f"is not valid TOML: {error}")]) from error


def _yaml(text: str, file: str) -> Value:
    from builder.convert.yaml import parse_yaml

    try:
        return parse_yaml(text, file)
    except ValueError as error:
        raise SourceError([Problem(file, f"is not valid YAML: {error}")]) from error
