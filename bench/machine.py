"""The machine in words that name nobody's: cores, memory, versions."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform

import builder
from bench.child import ROOT

__all__ = ["describe", "program"]


def describe() -> str:
    """One sentence for the head of the page."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores, {memory:.0f} GiB of memory, {platform.system()}"
        f" {platform.machine()}, Python {platform.python_version()},"
        f" uv {importlib.metadata.version('uv')}, template-builder {builder.__version__}"
    )


def program() -> str:
    """A hash of all that is measured, to tell whether it was edited under way."""
    found = hashlib.sha256()
    for name in ("builder", "bench", "variants", "generated"):
        for path in sorted((ROOT / name).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                found.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return found.hexdigest()
