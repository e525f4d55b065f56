"""The machine in words that name nobody's: cores, memory, versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform

import builder

__all__ = ["describe"]


def describe() -> str:
    """One sentence for the head of the page."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores, {memory:.0f} GiB of memory, {platform.system()}"
        f" {platform.machine()}, Python {platform.python_version()},"
        f" uv {importlib.metadata.version('uv')}, template-builder {builder.__version__}"
    )
