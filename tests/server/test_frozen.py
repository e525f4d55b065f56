from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.errors import SpecError, TemplateError
from builder.project import Project
from builder.render import Rendered, drift, write
from tests.support.here import results_of
from tests.support.index_server import IndexServer, served, wheel
from tests.support.options import rounds

INDEXES = {
    "/simple": [
        *(wheel("idna", version) for version in ("2.10", "3.20")),
        wheel("six", "1.17"),
        wheel("zope-interface", "8.0"),
        wheel("pysocks", "1.7"),
        wheel("colorama", "0.4"),
        wheel(
            "requests",
            "2.33",
            requires=[
                "idna",
                "colorama; sys_platform == 'win32'",
                "pysocks; extra == 'socks'",
            ],
        ),
        wheel("torch", "2.9.0", requires=["six"]),
    ],
    "/whl/cpu": [wheel("torch", "2.9.0+cpu", requires=["six"])],
}
BASE = {
    "schema": 1,
    "base": {"image": f"localhost:1/python@sha256:{'a' * 64}", "python": ">=3.11"},
}

names = st.sampled_from(
    [
        "idna",
        "IDNA",
        "six",
        "zope.interface",
        "Zope_Interface",
        "requests",
        "requests[socks]",
        "requests[Socks]",
        "colorama",
        "torch",
    ]
)
versions = st.sampled_from(["", "", "", "<3", ">=2", "==3.20", "!=3.20", "~=2.10", ">=1,<9"])
comparisons = st.one_of(
    st.tuples(
        st.sampled_from(["python_version", "python_full_version", "implementation_version"]),
        st.sampled_from(["<", "<=", ">", ">=", "==", "!=", "~="]),
        st.sampled_from(["3.8", "3.10", "3.11", "3.11.4", "3.13", "3.99", "4.0"]),
    ),
    st.tuples(
        st.sampled_from(["python_version"]),
        st.sampled_from(["in", "not in"]),
        st.sampled_from(["3.8 3.9", "3.11 3.12"]),
    ),
    st.tuples(
        st.sampled_from(
            [
                "sys_platform",
                "os_name",
                "platform_system",
                "platform_machine",
                "implementation_name",
                "platform_python_implementation",
                "platform_release",
                "platform_version",
            ]
        ),
        st.sampled_from(["==", "!=", "in", "not in"]),
        st.sampled_from(
            [
                "linux",
                "win32",
                "darwin",
                "posix",
                "nt",
                "java",
                "Linux",
                "Windows",
                "x86_64",
                "arm64",
                "cpython",
                "pypy",
                "CPython",
                "PyPy",
                "",
                "x",
                "ä ö",
                "a; b",
                "a, b",
                "==1",
            ]
        ),
    ),
).map(lambda parts: f"{parts[0]} {parts[1]} '{parts[2]}'")
markers = st.recursive(
    comparisons,
    lambda inner: st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(
        lambda parts: f"({parts[0]} {parts[1]} {parts[2]})"
    ),
    max_leaves=3,
)
requirements = st.builds(
    lambda name, version, marker, space: (
        f"{name}{space}{version}" + (f"{space}; {marker}" if marker else "")
    ),
    names,
    versions,
    st.none() | markers,
    st.sampled_from(["", " ", "  "]),
)
tables = st.fixed_dictionaries(
    {"packages": st.lists(requirements, max_size=3)},
    optional={"torch-backend": st.sampled_from(["cpu"])},
)
chains = st.lists(tables, min_size=1, max_size=3)
floors = st.sampled_from([">=3.11", ">=3.10", ">=3.12,<3.14", ">3.11.2", "~=3.11", "==3.11.*"])


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IndexServer]:
    with served(tmp_path_factory.mktemp("index"), INDEXES) as server:
        yield server


def project_of(folder: Path, chain: list[Mapping[str, Any]], floor: str) -> Project:
    """A project of one variant, `leaf`, whose stages ask for what `chain` says."""
    variants = folder / "variants"
    variants.mkdir()
    parent = {**BASE, "base": BASE["base"] | {"python": floor}}  # type: ignore[operator]
    documents = {"_base": parent}
    for number, table in enumerate(chain):
        stem = "leaf" if number == len(chain) - 1 else f"_{number}"
        documents[stem] = {"schema": 1, "extends": list(documents)[-1], "python": dict(table)}
    documents["leaf"]["name"] = "leaf"
    for stem, document in documents.items():
        (variants / f"{stem}.toml").write_text(tomli_w.dumps(document), encoding="utf-8")
    return Project.find(folder)


def check(project: Project) -> None:
    """What was locked and written is what the frozen commands read and render."""
    locked = results_of(project)["leaf"]
    if isinstance(locked, TemplateError):
        assert "was not written" not in locked.message  # it is the specs that uv refuses
        return
    write([locked], project.generated, all_variants=True)
    frozen = results_of(project, frozen=True)["leaf"]
    assert isinstance(frozen, Rendered), frozen
    assert frozen.digest == locked.digest
    drift([frozen], project.generated, all_variants=True)


@pytest.mark.slow
@pytest.mark.chance
@settings(
    max_examples=rounds(15),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    print_blob=True,
)
@given(chain=chains, floor=floors)
def test_whatever_is_locked_is_accepted_when_frozen(
    index: IndexServer, chain: list[Mapping[str, Any]], floor: str
) -> None:
    """Whatever a spec asks for, if `lock` writes a lock then the frozen commands accept it and
    render the same bytes."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            project = project_of(Path(folder), chain, floor)
            check(project)
        except SpecError:
            pass  # not a spec


EXAMPLES: dict[str, list[Mapping[str, Any]]] = {
    "a marker that never holds": [{"packages": ["six", "idna; python_version < '3.11'"]}],
    "nothing but a marker that never holds": [{"packages": ["idna; python_version < '3.11'"]}],
    "a package that the parent has": [{"packages": ["requests"]}, {"packages": ["idna"]}],
    "the same as the parent": [{"packages": ["idna"]}, {"packages": ["idna"]}],
    "another spelling": [{"packages": ["zope.interface"]}, {"packages": ["Zope_Interface"]}],
    "an extra of a package that the parent has": [
        {"packages": ["requests"]},
        {"packages": ["requests[socks]"]},
    ],
    "a stage without packages": [{"packages": ["six"]}, {"packages": []}, {"packages": ["idna"]}],
    "one name with several markers": [
        {"packages": ["idna<3; python_version < '3.12'", "idna>3; python_version >= '3.12'"]},
        {"packages": ["idna; sys_platform == 'win32'"]},
    ],
    "the same twice": [{"packages": ["idna", "idna>=2", "IDNA"]}],
    "a parent's platform alone": [
        {"packages": ["colorama; sys_platform == 'win32'"]},
        {"packages": ["colorama"]},
    ],
    "a backend in the parent": [
        {"packages": ["torch"], "torch-backend": "cpu"},
        {"packages": ["torch", "six"]},
    ],
    "a backend in the child": [
        {"packages": ["six"]},
        {"packages": ["torch"], "torch-backend": "cpu"},
    ],
    "a backend without packages": [
        {"packages": [], "torch-backend": "cpu"},
        {"packages": ["torch"]},
    ],
    "letters beyond ASCII": [{"packages": ["idna; platform_version != 'ä ö'"]}],
}


@pytest.mark.parametrize("chain", EXAMPLES.values(), ids=EXAMPLES)
def test_lock_is_accepted_when_frozen(
    index: IndexServer, tmp_path: Path, chain: list[Mapping[str, Any]]
) -> None:
    """The same for each way in which a stage adds less than it asks for; all of these lock."""
    project = project_of(tmp_path, chain, ">=3.11")
    check(project)
    assert (project.generated / "leaf" / "template.toml").is_file()
