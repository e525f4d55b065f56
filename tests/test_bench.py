from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.network
def test_benchmarks_run_and_print_their_tables() -> None:
    """The benchmarks that need no large download run, and print ratios beside their targets."""
    found = subprocess.run(
        [sys.executable, "-m", "bench", "resolve", "scale", "--rounds", "1"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert found.returncode == 0, found.stderr
    assert "json.load" in found.stdout
    assert re.search(r"1,000 to 100 variants: [\d.]+, target at most 11", found.stdout)


def test_page_of_figures_is_a_measured_one() -> None:
    """The page of benchmarks says how it was made, on what, and has every benchmark on it."""
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    assert "nox -s bench -- --write" in page
    assert re.search(r"Measured with \d+ cores", page)
    for name in ("job", "plan", "resolve", "scale", "build"):
        assert f"\n## {name}: " in page
