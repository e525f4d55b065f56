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
    "name", ["libgcc-ng", "r-ggplot2", "nodejs", "mkl", "gcc_linux-64", "_openmp_mutex"]
)
def test_packages_that_only_conda_has(name: str) -> None:
    """What is no Python package does not become its namesake on an index."""
    document, notes = converted(f"dependencies:\n- idna\n- {name}\n", "env.yaml")
    assert document == {"python": {"packages": ["idna"]}}
    assert notes == [f"env.yaml:3: `{name}`: {ABSENT}"]
