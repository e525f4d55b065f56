"""Plot the tables of docs/benchmarks.md: docs/benchmarks/NAME.svg for each of `PLOTS`.

The data are the page's tables: `python -m bench --write` plots them after writing them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PLOTS", "Plot", "bars", "draw", "seconds_of", "tables"]

_UNITS = {"s": 1.0, "ms": 1e-3, "µs": 1e-6}
_COLORS = ("#4c78a8", "#f2a14e", "#6ba565")


@dataclass(frozen=True, kw_only=True, slots=True)
class Plot:
    """A bar for each row of a table: the named columns end to end, on a time scale."""

    label: str  # the column with the name of a row
    columns: tuple[str, ...]
    log: bool = False  # of several columns, a sum that differs by powers of ten cannot be read


PLOTS = {
    "job": Plot(
        label="way", columns=("sandbox up", "packages installed", "first result of the imports")
    ),
    "runtime": Plot(label="way", columns=("total",), log=True),
    "resolve": Plot(label="registry, process", columns=("median",), log=True),
    "cloud": Plot(label="way", columns=("time",)),
}


def tables(page: str) -> dict[str, list[dict[str, str]]]:
    """Return the table of each section of the page, by the section's name, as rows by heading."""
    sections = {}
    for section in page.split("\n## ")[1:]:
        lines = [line for line in section.splitlines() if line.startswith("| ")]
        headings, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)
        sections[section.partition(":")[0]] = [
            dict(zip(headings, row, strict=True)) for row in rows
        ]
    return sections


def seconds_of(cell: str) -> float:
    """Return the seconds of a cell such as "34.41 s" or "2.23 ms"; 0 for one without a time."""
    match = re.fullmatch(r"([\d.]+) (s|ms|µs)", cell)
    return float(match[1]) * _UNITS[match[2]] if match else 0.0


def bars(plot: Plot, rows: list[dict[str, str]]) -> list[tuple[str, list[float]]]:
    """Return the name and the seconds of each bar."""
    named = [
        (", ".join(row[part] for part in plot.label.split(", ")).replace("`", ""), row)
        for row in rows
    ]
    return [(name, [seconds_of(row[column]) for column in plot.columns]) for name, row in named]


def draw(page: Path) -> None:
    """Write all plots of the page to the folder beside it that has the same name."""
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    mpl.use("svg")
    mpl.rcParams |= {"svg.hashsalt": "bench", "svg.fonttype": "none", "font.family": "sans-serif"}
    folder = page.with_suffix("")
    folder.mkdir(exist_ok=True)
    for name, rows in tables(page.read_text(encoding="utf-8")).items():
        if name not in PLOTS:
            continue
        plot = PLOTS[name]
        named = bars(plot, rows)
        labels = [label for label, _ in named]
        figure, axes = plt.subplots(figsize=(8, 0.9 + 0.34 * len(named)), layout="constrained")
        left = [0.0] * len(named)
        for number, column in enumerate(plot.columns):
            widths = [values[number] for _, values in named]
            axes.barh(labels, widths, left=left, label=column, color=_COLORS[number], height=0.7)
            left = [start + width for start, width in zip(left, widths, strict=True)]
        axes.invert_yaxis()
        axes.set_xlabel("seconds, on a logarithmic scale" if plot.log else "seconds")
        if plot.log:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
        if len(plot.columns) > 1:
            axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
        plt.close(figure)
