from __future__ import annotations

import pytest

from tests.support.conversions import converted

ABSENT = "conda's package is no Python package, and nothing here installs with conda"


def test_environment() -> None:
    """Python packages and variables are taken over, programs become Debian's, the rest is a note."""
    text = """\
name: my-env
channels:
  - conda-forge
  - acme
dependencies:
  - python=3.12
  - pip
  - numpy=1.26
  - pandas==2.2.3=py312_0
  - conda-forge::scipy >=1.11,<2
  - pytorch
  - graphviz=9
  - python-graphviz
  - cudatoolkit=11.8
  - pip:
      - idna>=3
      - -r more.txt
      - --index-url https://packages.example.com/simple
variables:
  MODE: fast
  API_TOKEN: abc123
prefix: /home/me/env
"""
    document, notes = converted(text, "environment.yml", {"more.txt": "six\n"})
    assert document == {
        "base": {"python": ">=3.12"},
        "env": {"MODE": "fast"},
        "system": {"packages": ["graphviz"]},
        "python": {
            "packages": [
                "numpy==1.26.*",
                "pandas==2.2.3",
                "scipy>=1.11,<2",
                "torch",
                "graphviz",
                "idna>=3",
                "six",
            ]
        },
    }
    at = "environment.yml"
    assert notes == [
        f"{at}:4: `acme`: packages come from a Python package index",
        f"{at}:6: `python=3.12`: the base image has the Python; `[base] python` says what it must meet",
        f"{at}:12: `graphviz=9`: is Debian's `graphviz`, in Debian's version",
        f"{at}:14: `cudatoolkit=11.8`: {ABSENT}",
        f"{at}:18: `--index-url https://packages.example.com/simple`: the index is a setting of the"
        " machine: see the guide about a private index",
        f"{at}:21: `API_TOKEN` is a secret: pass it to a sandbox when you open it",
    ]


@pytest.mark.parametrize(
    "name", ["libgcc-ng", "r-ggplot2", "nodejs", "mkl", "gcc_linux-64", "_openmp_mutex", "zstd"]
)
def test_packages_that_only_conda_has(name: str) -> None:
    """What is no Python package does not become its namesake on an index."""
    document, notes = converted(f"dependencies:\n- idna\n- {name}\n", "env.yaml")
    assert document == {"python": {"packages": ["idna"]}}
    assert notes == [f"env.yaml:3: `{name}`: {ABSENT}"]


def test_variables() -> None:
    """Conda expands no variables, so a dollar sign is one; a list, a table or null is a note."""
    text = """\
dependencies: [idna]
variables:
  A: $HOME
  U: "${FOO}"
  Q: "null"
  L: [1]
  M: {a: 1}
  N: null
  X:
"""
    document, notes = converted(text, "environment.yml")
    assert document["env"] == {"A": "$$HOME", "U": "$${FOO}", "Q": "null"}
    assert notes == [
        "environment.yml:6: `L: …`: is a list: expected text or a number",
        "environment.yml:7: `M: …`: is a table: expected text or a number",
        "environment.yml:8: `N: …`: is null: expected text or a number",
        "environment.yml:9: `X: …`: is null: expected text or a number",
    ]


@pytest.mark.parametrize(
    ("package", "requirement", "build"),
    [
        ("pytorch::pytorch=2.1.*=cuda", "torch==2.1.*", "cuda"),
        ("pytorch=*=cuda*", "torch", "cuda*"),
        ("pytorch=*=*cuda*", "torch", "*cuda*"),
        ("numpy=1.26.4=py312h7d8b5a3_0", "numpy==1.26.4.*", None),
        ("idna=3.7=pyhd8ed1ab_0", "idna==3.7.*", None),
        ("scipy=1.11=py312*", "scipy==1.11.*", None),
        ("scipy=1.11=*", "scipy==1.11.*", None),
    ],
)
def test_builds(package: str, requirement: str, build: str | None) -> None:
    """A build that is more than a Python, a hash and a number is a note."""
    document, notes = converted(f"dependencies:\n- {package}\n", "env.yaml")
    assert document == {"python": {"packages": [requirement]}}
    assert notes == (
        [
            f"env.yaml:2: `{package}`: a package index has no build `{build}`:"
            " `[python] torch-backend` chooses PyTorch's"
        ]
        if build
        else []
    )


def test_build_of_another_package() -> None:
    """A spec cannot choose the build of a package other than PyTorch."""
    document, notes = converted("dependencies:\n- jaxlib=0.4.*=cuda*\n", "env.yaml")
    assert document == {"python": {"packages": ["jaxlib==0.4.*"]}}
    assert notes == ["env.yaml:2: `jaxlib=0.4.*=cuda*`: a package index has no build `cuda*`"]


def test_build_of_a_program() -> None:
    """A program of Debian has neither conda's version nor conda's build."""
    document, notes = converted("dependencies:\n- ffmpeg=*=gpl*\n", "env.yaml")
    assert document == {"system": {"packages": ["ffmpeg"]}}
    assert notes == ["env.yaml:2: `ffmpeg=*=gpl*`: is Debian's `ffmpeg`, in Debian's version"]


def test_versions_with_spaces_and_in_brackets() -> None:
    """A version after a space or in brackets is taken over; the rest of the brackets is a note."""
    text = """\
name: demo
dependencies:
  - numpy =1.2
  - polars 1.2
  - scikit-image >=0.24, <0.26
  - dask[version='>=2024.1']
  - xarray[version='2024.*,<2024.9', build=py_0]
  - zarr[channel=acme]
"""
    document, notes = converted(text, "environment.yml")
    assert document["python"]["packages"] == [
        "numpy==1.2.*",
        "polars==1.2.*",
        "scikit-image>=0.24,<0.26",
        "dask>=2024.1",
        "xarray==2024.*,<2024.9",
        "zarr",
    ]
    only = "only the version in the brackets is taken over"
    assert notes == [
        f"environment.yml:7: `xarray[version='2024.*,<2024.9', build=py_0]`: {only}",
        f"environment.yml:8: `zarr[channel=acme]`: {only}",
    ]
