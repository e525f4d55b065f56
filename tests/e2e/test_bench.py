from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize(
    ("name", "ratio"),
    [
        ("flatten", r"flatten to parser: [\d.]+, target at most 3"),
        pytest.param(
            "scale", r"1,000 to 100 variants: [\d.]+, target at most 11", marks=pytest.mark.soak
        ),
    ],
)
def test_benchmark_runs_and_prints_its_table(name: str, ratio: str) -> None:
    """A benchmark runs by its name, and prints a ratio beside its target."""
    found = subprocess.run(
        [sys.executable, "-m", "bench", name, "--rounds", "1"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert found.returncode == 0, found.stderr
    assert re.search(ratio, found.stdout)
