from __future__ import annotations

import pytest

from tests.support.conversions import converted

OWN = (
    "only its dependencies are taken over: build a wheel from the project itself and add it to"
    " `packages`"
)
SOURCE = "comes from a folder or branch; take a wheel, an archive or a commit"
ASKED = "is installed only if asked for; add to `packages` what the code needs of it"


def test_dependencies_of_a_project() -> None:
    """The dependencies are packages; the groups, the package itself and the dynamic are notes."""
    text = """\
[project]
name = "tools"
requires-python = ">=3.12"
dependencies = [
    "idna",
    "lib @ file:///x",
]
dynamic = ["version", "dependencies"]

[project.optional-dependencies]
plot = ["matplotlib", "seaborn>=0.13"]

[dependency-groups]
dev = ["pytest"]

[tool.uv]
constraint-dependencies = ["idna<4"]
"""
    document, notes = converted(text, "pyproject.toml")
    assert document == {"base": {"python": ">=3.12"}, "python": {"packages": ["idna"]}}
    at = "pyproject.toml"
    assert notes == [
        f'{at}:2: `name = "tools"`: {OWN}',
        f"{at}:6: `lib @ file:///x`: 'file:///x' is not a path inside the variants folder",
        f'{at}:8: `dynamic = ["version", "dependencies"]`: the dependencies are known only when it is'
        " built",
        f"{at}:11: `plot: matplotlib, seaborn>=0.13`: optional dependencies: {ASKED}",
        f"{at}:14: `dev: pytest`: dependency group: {ASKED}",
        f'{at}:17: `constraint-dependencies = ["idna<4"]`: put a bound that you need into `packages`',
    ]


@pytest.mark.parametrize(
    ("specifier", "base", "notes"),
    [
        (">=3.9", {}, []),
        (">=3.11", {}, []),
        (">=3.13", {"base": {"python": ">=3.13"}}, []),
        (
            ">=3.10,<3.13",
            {},
            [
                'pyproject.toml:3: `requires-python = ">=3.10,<3.13"`: the base image has the Python;'
                " `[base] python` says what it must meet"
            ],
        ),
        (
            "soon",
            {},
            [
                "pyproject.toml:3: `requires-python = \"soon\"`: 'soon' is not a version specifier such as '>=3.11'"
            ],
        ),
    ],
)
def test_python_of_a_project(specifier: str, base: dict[str, object], notes: list[str]) -> None:
    """A Python above the lowest that templates take becomes `base.python`."""
    text = f'[project]\ndependencies = ["idna"]\nrequires-python = "{specifier}"\n'
    document, reasons = converted(text, "pyproject.toml")
    assert document == base | {"python": {"packages": ["idna"]}}
    assert reasons == notes


def test_dependencies_of_poetry() -> None:
    """Poetry's ranges become those of PEP 440; what is optional or comes from elsewhere is a note."""
    text = """\
[tool.poetry]
name = "tools"

[tool.poetry.dependencies]
python = "^3.11"
idna = "^3.4"
six = "~1.16.1"
attrs = "25.1"
tomli = { version = ">=2,<3", markers = "python_version < '3.13'" }
rich = { version = "*", extras = ["jupyter"] }
zero = "^0.2.3"
plot = { version = "1", optional = true }
ours = { path = "../ours" }
either = "1.0 || 2.0"

[tool.poetry.group.dev.dependencies]
pytest = "*"
"""
    document, notes = converted(text, "pyproject.toml")
    assert document["python"]["packages"] == [
        "idna>=3.4,<4",
        "six>=1.16.1,<1.17",
        "attrs==25.1",
        "tomli>=2,<3 ; python_version < '3.13'",
        "rich[jupyter]",
        "zero>=0.2.3,<0.3",
    ]
    assert [note.partition("`: ")[2] for note in notes] == [
        OWN,
        f"is optional: {ASKED}",
        SOURCE,
        "a choice between ranges of versions has no counterpart",
        f"dependency group: {ASKED}",
    ]


def test_sources_of_uv() -> None:
    """A dependency that uv takes from a folder is a note."""
    text = """\
[project]
dependencies = ["idna", "Ours_Lib>=1"]
[tool.uv.sources]
ours-lib = { path = "../ours" }
"""
    document, notes = converted(text, "pyproject.toml")
    assert document["python"]["packages"] == ["idna"]
    assert notes == [f"pyproject.toml:2: `Ours_Lib>=1`: {SOURCE}"]
