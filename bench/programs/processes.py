"""The processes below one, and their memory, from /proc."""

from __future__ import annotations

import contextlib
from pathlib import Path

__all__ = ["descendants", "memory_of"]


def descendants(pid: int) -> list[int]:
    """Return every process below `pid`, parents first."""
    processes = []
    with contextlib.suppress(FileNotFoundError):  # a thread, or all of it, has ended meanwhile
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError):
                for child in (task / "children").read_text(encoding="ascii").split():
                    processes += [int(child), *descendants(int(child))]
    return processes


def memory_of(pid: int) -> dict[str, float]:
    """Return the MiB of a process: resident, its share of them, and those that it alone has."""
    sizes = {"Pss": 0.0, "Rss": 0.0, "Private": 0.0}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]:
        key, value = line.split(":")
        size = int(value.split()[0]) / 1024
        if key in ("Pss", "Rss"):
            sizes[key] += size
        elif key.startswith("Private_") and key != "Private_Hugetlb":
            sizes["Private"] += size
    return sizes
