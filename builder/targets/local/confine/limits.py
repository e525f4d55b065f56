"""The limits of a confined sandbox, and the messages about them."""

from __future__ import annotations

import itertools
import os
import resource
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from builder.targets.local.confine.walls import HOME, RUN, VENV, Sizes

_PROCESSES = 1024
_OPEN_FILES = 4096
_FILES = 500_000
_MOST_DISK_MB = 10_240
# The stack of each thread counts as 8 MiB from its start, whatever the thread uses.
STACKS_MB = 1024
OUTPUT_BYTES = 1 << 30
OUTPUT_WORDS = (
    f"the code was interrupted: it wrote more than {OUTPUT_BYTES >> 20} MiB of output, the limit"
    " for one execution"
)
_sandboxes = itertools.count()


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The limits of a sandbox, for all processes and files that its code creates."""

    memory_mb: int
    cpus: int
    disk_mb: int = _MOST_DISK_MB
    processes: int = _PROCESSES
    open_files: int = _OPEN_FILES
    files: int = _FILES

    @classmethod
    def of(cls, memory_mb: int | None, cpus: int | None, *, folder: str) -> Limits:
        """Return the limits for the resources of a record, which old records lack. `folder` is
        where sandboxes keep files."""
        free_mb = shutil.disk_usage(folder).free >> 20
        return cls(
            memory_mb=memory_mb or _machine_mb() // 2,
            cpus=cpus or os.cpu_count() or 1,
            # Rounded, so that a prepared sandbox usually has the limits that are asked for.
            disk_mb=min(_MOST_DISK_MB, free_mb // 128 * 64 or free_mb // 2),
        )

    @property
    def sizes(self) -> Sizes:
        """The sizes of file systems in memory: half of the memory each, as on E2B."""
        half = self.memory_mb << 19
        return Sizes(temporary=half, shared=half)

    def of_processes(self) -> dict[str, Any]:
        """Return the limits of each single process, for `wall.limit`."""
        return {
            "number": next(_sandboxes),
            "cpus": self.cpus,
            "resources": {
                "core": 0,
                "nproc": self.processes,
                "nofile": self.open_files,
                "fsize": self.disk_mb << 20,
                "data": (self.memory_mb + STACKS_MB) << 20,
            },
        }

    def of_all(self) -> dict[str, Any]:
        """Return the limits of all processes together, for `budget.Budget`."""
        return {
            "memory": self.memory_mb << 20,
            "memory_folders": ["/", "/tmp", "/dev/shm"],  # noqa: S108 - of the sandbox
            "disk": self.disk_mb << 20,
            "files": self.files,
            "folders": [HOME, VENV, f"{RUN}/s"],
        }

    def breached(self, name: str) -> str | None:
        """Return the message for a sandbox that was ended because of the limit `name`."""
        words: Mapping[str, str] = {
            "memory": f"its limit of {self.memory_mb} MiB of memory (`resources.memory-mb`)",
            "disk": f"its limit of {self.disk_mb} MiB of files",
            "files": f"its limit of {self.files} files",
        }
        return f"the sandbox was ended: the code exceeded {words[name]}" if name in words else None


def _machine_mb() -> int:
    return os.sysconf("SC_PHYS_PAGES") * resource.getpagesize() >> 20
