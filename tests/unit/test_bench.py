from __future__ import annotations

import html
import re

import pytest

from bench.__main__ import BENCHMARKS
from bench.plot import PLOTS, bars, seconds_of, tables
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


def test_plots_show_the_tables() -> None:
    """Each plot on the page has a bar for each row of its table, and the bar's times."""
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    rows = tables(text)
    for name, plot in PLOTS.items():
        assert f"](benchmarks/{name}.svg)" in text
        drawn = (ROOT / "docs" / "benchmarks" / f"{name}.svg").read_text()
        for label, times in bars(plot, rows[name]):
            assert f">{html.escape(label, quote=False)}</text>" in drawn
            assert any(times), label


def test_times_of_cells() -> None:
    """A cell of a table is read with its unit, and a dash is no time."""
    assert [seconds_of(cell) for cell in ("34.41 s", "2.23 ms", "4 µs", "-")] == [
        34.41, 0.00223, 4e-06, 0.0
    ]  # fmt: skip
