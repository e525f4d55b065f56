"""The memory of the process that kernels are forked from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from builder.targets.local.kernel_host import memory

_PROGRAM = """
import os, runpy, sys

kept = [bytes(1000) for _ in range(40_000)]


def huge():
    with open("/proc/self/smaps_rollup") as file:
        return [int(line.split()[1]) for line in file if line.startswith("AnonHugePages")][0]


before = huge()
runpy.run_path(sys.argv[1])["use_huge_pages"]()
print(before, huge(), all(not any(each) for each in kept))
"""


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="needs huge pages"
)
def test_memory_moves_to_huge_pages() -> None:
    """Small objects that fill 40 MB are in huge pages afterwards, unchanged."""
    ended = subprocess.run(
        [sys.executable, "-c", _PROGRAM, memory.__file__],
        capture_output=True,
        text=True,
        check=True,
    )
    before, after, unchanged = ended.stdout.split()
    assert (before, unchanged) == ("0", "True")
    assert int(after) > 20 << 10
