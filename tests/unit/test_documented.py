"""The pages that list what the program reads: complete, and nothing besides."""

from __future__ import annotations

import ast
import re
import tomllib
from typing import Any

import pytest

from builder.project import PRECHECK_KEYS, TARGET_KEYS
from builder.system.settings import KEYS
from builder.system.uv_settings import _KEPT_VARIABLES
from tests.conftest import ROOT

PAGE = (ROOT / "docs/environment.md").read_text()
NAME = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+")
# Text of that form that is no variable: codes of an image's registry, constants in `__all__`, what
# only processes of this program tell each other, and what `doctor --live` sets in its template.
OTHERS = {
    "DEFAULT_CHANNEL", "MANIFEST_UNKNOWN", "NAME_UNKNOWN", "RESEED_FILE", "BASH_VERSINFO",
    "GIT_OPTIONAL_LOCKS", "JPY_PARENT_PID", "PYDANTIC_DISABLE_PLUGINS", "SANDBOX_HOME",
    "TEMPLATE_DOCTOR_PLAIN", "TEMPLATE_DOCTOR_QUOTES", "DEBIAN_FRONTEND", "CAP_SETGID", "CAP_SETUID", "SC_PHYS_PAGES",
}  # fmt: skip


def names_in_code() -> set[str]:
    """Every text in the program that could be the name of a variable."""
    return {
        node.value
        for path in (ROOT / "builder").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and NAME.fullmatch(node.value)
    }


@pytest.mark.slow
def test_every_variable_is_documented() -> None:
    """Each environment variable that the program names stands on the page of variables."""
    documented = set(re.findall(r"`([A-Z][A-Z0-9_]*)`", PAGE))
    assert names_in_code() - OTHERS - documented == set()


@pytest.mark.slow
def test_no_variable_is_invented() -> None:
    """Each variable in the page's tables is one that the program names, or that uv is given."""
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    listed = set(re.findall(r"`([A-Z][A-Z0-9_]+)`", "".join(rows)))
    terminal = {"COLUMNS"}  # read by rich
    assert {
        name for name in listed - names_in_code() - terminal if not _KEPT_VARIABLES.fullmatch(name)
    } == set()


def test_every_setting_is_documented() -> None:
    """The page of settings has the keys that pyproject.toml may have, table by table."""
    page = (ROOT / "docs/settings.md").read_text()
    tables = {
        section.partition("`")[0]: re.findall(r"^\| `([a-z-]+)` \|", section, re.MULTILINE)
        for section in page.split("\n## `")[1:]
    }
    assert {name: tuple(sorted(keys)) for name, keys in tables.items()} == {
        "[tool.template-builder]": KEYS,
        "[tool.template-builder.precheck]": PRECHECK_KEYS,
        "[tool.template-builder.targets.NAME]": TARGET_KEYS,
    }


def pages_of(entries: list[dict[str, Any]]) -> list[str]:
    """The pages below entries of the site's navigation."""
    return [
        page
        for entry in entries
        for value in entry.values()
        for page in ([value] if isinstance(value, str) else pages_of(value))
    ]


def test_every_page_is_in_the_navigation() -> None:
    """The navigation of the site has every page once, and no other."""
    site = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]
    docs = ROOT / "docs"
    pages = sorted(str(page.relative_to(docs)) for page in docs.rglob("*.md"))
    assert sorted(pages_of(site["nav"])) == pages
