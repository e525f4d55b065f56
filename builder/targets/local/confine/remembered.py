"""Whether sandboxes can be confined here, as it was found out since this machine started.

To try it takes two processes, which is more than all else that a plan does. Whatever opens a
sandbox tries it again.
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
    """Return whether sandboxes can be confined, tried unless it is known that they can."""
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
    """Return what tells this start of this machine, container, user and installation from others;
    None where it cannot be told."""
    with contextlib.suppress(OSError):
        start = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        places = [os.stat(path) for path in ("/", "/proc/self/ns/user", "/proc/self/ns/mnt")]
        numbers = [number for place in places for number in (place.st_dev, place.st_ino)]
        return [start, os.getuid(), sys.prefix, *numbers]
    return None
