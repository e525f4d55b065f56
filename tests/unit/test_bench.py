from __future__ import annotations

import re

import pytest

from bench.__main__ import BENCHMARKS
from bench.report import page
from bench.result import Result
from tests.conftest import ROOT


def test_page_of_figures_is_a_measured_one() -> None:
    """The page of benchmarks says how it was made, on what, and has every benchmark on it."""
    found = (ROOT / "docs" / "benchmarks.md").read_text()
    assert "nox -s bench -- --write" in found
    assert re.search(r"Measured with \d+ cores", found)
    for name in BENCHMARKS:
        assert f"\n## {name}: " in found


def test_sections_are_written_one_by_one() -> None:
    """Measuring some benchmarks anew keeps the sections of the others, on the same machine only."""

    def result(name: str, cell: str) -> Result:
        return Result(title=f"{name}: it", measured="M.", headings=("h",), rows=((cell,),))

    whole = page([result("a", "1"), result("b", "2")], "2 cores and much that needs a longer line")
    changed = page(
        [result("b", "3"), result("c", "4")], "2 cores and much that needs a longer line", whole
    )
    assert changed == page(
        [result("a", "1"), result("b", "3"), result("c", "4")],
        "2 cores and much that needs a longer line",
    )
    with pytest.raises(ValueError, match="another machine"):
        page([], "4 cores", whole)
