"""Remember that sandboxes can be confined, until this machine restarts.

A test takes two processes, which is more than everything else in a plan. Opening a sandbox always
tests it again.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from builder.errors import StorageError
from builder.system.files import atomic_write, cache_folder

_FILE = "confinement.json"


def can_confine() -> bool:
    """Return whether sandboxes can be confined. Test it unless the answer is known to be yes."""
    here, file = _here(), None
    with contextlib.suppress(OSError, ValueError, StorageError):
        file = cache_folder() / _FILE
        if here and json.loads(file.read_bytes()) == here:
            return True
    from builder.targets.local.confine import bubblewrap

    if bubblewrap.refusal() is not None:
        return False
    if file and here:
        with contextlib.suppress(StorageError):
            atomic_write(file, json.dumps(here).encode(), durable=False)
    return True


def _here() -> list[Any] | None:
    """Return the identity of this start of the machine, container, user and installation, or None
    if it is unknown."""
    with contextlib.suppress(OSError):
        start = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        places = [os.stat(path) for path in ("/", "/proc/self/ns/user", "/proc/self/ns/mnt")]
        numbers = [number for place in places for number in (place.st_dev, place.st_ino)]
        return [start, os.getuid(), sys.prefix, *numbers]
    return None
