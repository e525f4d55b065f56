"""Take over the dependencies of a pyproject.toml: the standard's, uv's and Poetry's tables."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from builder.convert.draft import Draft
from builder.convert.requirements import INDEX
from builder.convert.toml import Table
from builder.convert.values import Line

_OWN = (
    "only its dependencies are taken over: build a wheel from the project itself and add it to"
    " `packages`"
)
_GROUP = "is installed only if asked for; add to `packages` what the code needs of it"
_SOURCE = "comes from a folder or branch; take a wheel, an archive or a commit"
_CARET = re.compile(r"\^\s*([\d.]+)")
_TILDE = re.compile(r"~\s*([\d.]+)")
_VERSION = re.compile(r"\d[\w.!+-]*(\.\*)?")


def convert_pyproject(document: Table, draft: Draft) -> None:
    """Take over the dependencies of a project; the groups that are optional become notes."""
    project, tool = document.table("project"), document.table("tool")
    uv, poetry = tool.table("uv"), tool.table("poetry")
    if not project and not poetry:
        draft.note(document.line(), "there is neither [project] nor [tool.poetry]")
        return
    named = project or poetry
    draft.name = str(named.get("name") or "") or None
    if draft.name:
        draft.note(named.line("name"), _OWN)
    _project(project, uv, draft)
    _groups(document, draft)
    _uv(uv, draft)
    _poetry(poetry, draft)


def _project(project: Table, uv: Table, draft: Draft) -> None:
    if "requires-python" in project:
        draft.require_python(project.line("requires-python"), str(project["requires-python"]))
    if "dependencies" in project.list("dynamic"):
        draft.note(project.line("dynamic"), "the dependencies are known only when it is built")
    sources = uv.table("sources")
    for number, requirement in enumerate(project.list("dependencies")):
        line = project.line("dependencies", number, text=str(requirement))
        name = _name(str(requirement))
        source = next((key for key in sources if canonicalize_name(key) == name), None)
        if source is None:
            draft.require(line, str(requirement))
        else:
            _from_source(line, name, sources.table(source), draft)


def _from_source(line: Line, name: str, source: Table, draft: Draft) -> None:
    """Take over a package of `[tool.uv.sources]` or one of Poetry with a place of its own."""
    if url := source.get("url"):
        draft.require(line, f"{name} @ {url}")
    elif (git := source.get("git")) and (commit := source.get("rev")):
        draft.require(line, f"{name} @ git+{git}@{commit}")
    else:
        draft.note(line, _SOURCE)


def _groups(document: Table, draft: Draft) -> None:
    for table, path in (
        (document.table("project").table("optional-dependencies"), "optional dependencies"),
        (document.table("dependency-groups"), "dependency group"),
    ):
        for name in table:
            members = ", ".join(str(member) for member in table.list(name))
            draft.note(table.line(name, text=f"{name}: {members}"), f"{path}: {_GROUP}")


def _uv(uv: Table, draft: Draft) -> None:
    for key, reason in (
        ("index", INDEX),
        ("index-url", INDEX),
        ("constraint-dependencies", "put a bound that you need into `packages`"),
        ("override-dependencies", "put a bound that you need into `packages`"),
        ("prerelease", "a pre-release is taken if a bound names one"),
    ):
        if key in uv:
            draft.note(uv.line(key), reason)


def _poetry(poetry: Table, draft: Draft) -> None:
    dependencies = poetry.table("dependencies")
    for name, value in dependencies.items():
        line = dependencies.line(name, text=f"{name} = {value}")
        for constraint in value if isinstance(value, list) else [value]:
            table = constraint if isinstance(constraint, dict) else {"version": constraint}
            if name == "python":
                draft.require_python(line, ",".join(_specifiers(str(table.get("version", "")))))
            elif table.get("optional"):
                draft.note(line, f"is optional: {_GROUP}")
            elif "version" in table:
                _poetry_package(line, name, table, draft)
            else:
                _from_source(line, name, Table(table, line.file), draft)
    for group, members in poetry.table("group").items():
        names = ", ".join(members.get("dependencies", ()))
        line = poetry.table("group").table(group).line("dependencies", text=f"{group}: {names}")
        draft.note(line, f"dependency group: {_GROUP}")
    if "source" in poetry:
        draft.note(
            poetry.line("source"),
            INDEX,
        )


def _poetry_package(line: Line, name: str, table: Mapping[str, Any], draft: Draft) -> None:
    version = str(table["version"])
    if "||" in version or " | " in version:
        draft.note(line, "a choice between ranges of versions has no counterpart")
        return
    extras = ",".join(map(str, table.get("extras", ())))
    requirement = f"{name}[{extras}]" if extras else name
    requirement += ",".join(_specifiers(version))
    if markers := table.get("markers"):
        requirement += f" ; {markers}"
    draft.require(line, requirement)
    if table.get("python"):
        draft.note(line, f"is taken for every Python, not only for {table['python']}")


def _specifiers(version: str) -> Iterator[str]:
    """Yield what PEP 440 calls Poetry's ranges: `^1.2` is `>=1.2` and `<2`."""
    for part in version.split(","):
        text = part.strip()
        if text in ("", "*"):
            continue
        if caret := _CARET.fullmatch(text):
            yield f">={caret[1]}"
            yield f"<{_bumped(caret[1], caret=True)}"
        elif tilde := _TILDE.fullmatch(text):
            yield f">={tilde[1]}"
            yield f"<{_bumped(tilde[1], caret=False)}"
        elif _VERSION.fullmatch(text):
            yield f"=={text}"
        else:
            yield text


def _bumped(version: str, *, caret: bool) -> str:
    """Return the version before which a range ends."""
    parts = [int(part) for part in version.split(".") if part]
    place = 0 if len(parts) == 1 else 1
    if caret:
        place = next((n for n, part in enumerate(parts) if part), len(parts) - 1)
    return ".".join(map(str, [*parts[:place], parts[place] + 1]))


def _name(requirement: str) -> str:
    try:
        return canonicalize_name(Requirement(requirement).name)
    except InvalidRequirement:
        return requirement
