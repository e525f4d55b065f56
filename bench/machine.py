"""Describe the machine without identifying it: cores, memory, versions."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform

import builder
from bench.child import ROOT

__all__ = ["describe", "program"]


def describe() -> str:
    """Return a sentence for the top of the page."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores, {memory:.0f} GiB of memory, {platform.system()}"
        f" {platform.machine()}, Python {platform.python_version()},"
        f" uv {importlib.metadata.version('uv')}, template-builder {builder.__version__}"
    )


def program() -> str:
    """Return a hash of the measured program, which shows whether it was edited meanwhile."""
    digest = hashlib.sha256()
    for name in ("builder", "bench", "variants", "generated"):
        for path in sorted((ROOT / name).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()
