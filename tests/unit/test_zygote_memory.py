"""The memory of the process that kernels are forked from."""

from __future__ import annotations

import platform
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


runpy.run_path(sys.argv[1])["use_huge_pages"]()
print(huge(), all(not any(each) for each in kept))
"""


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists()
    or tuple(map(int, platform.release().split(".")[:2])) < (6, 1),
    reason="needs huge pages, and a kernel that moves memory to them",
)
def test_memory_moves_to_huge_pages() -> None:
    """Small objects that fill 40 MB are in huge pages afterwards, unchanged."""
    ended = subprocess.run(
        [sys.executable, "-c", _PROGRAM, memory.__file__],
        capture_output=True,
        text=True,
        check=True,
    )
    size, unchanged = ended.stdout.split()
    assert unchanged == "True"
    assert int(size) > 20 << 10
