from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.shell import PROGRAM, bash


@pytest.mark.network
@pytest.mark.parametrize(
    "reader",
    [
        "2>&1 | head -2",
        "2>&1 | grep -m1 resolving",
        "2> >(head -1)",
        "2>/dev/full",
        "2>&1 | true",
        "--json 2> >(head -1) | cat",
    ],
)
def test_a_reader_that_goes_away_does_not_stop_the_work(
    project: Path, local_cache: Path, reader: str
) -> None:
    """Whoever stops reading the progress of a build, it is built, recorded, and ends with 0."""
    ended = bash(f"{PROGRAM} build light --target local {reader}", project)
    assert ended.returncode == 0, ended.stderr
    recorded = json.loads((project / "registry.json").read_text())
    assert list(recorded["templates"]["light"]["local"]["channels"]) == ["stable"]
    assert "Traceback" not in ended.stderr
