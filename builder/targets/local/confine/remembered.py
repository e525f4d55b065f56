"""Remember the bubblewrap that works, until this machine restarts.

A test takes two processes: more than everything else in a plan, and a third of the first sandbox of
a program whose zygote is kept.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from builder.errors import StorageError
from builder.system.files import atomic_write, cache_folder

_FILE = "confinement.json"


def can_confine() -> bool:
    """Return whether sandboxes can be confined. Test it unless the answer is known to be yes."""
    return _known() is not None or _tested()


def assume() -> bool:
    """Use the bubblewrap that is known to work; return whether there is one that this process has
    not tested. If a sandbox cannot be opened with it, call `confirmed`."""
    from builder.targets.local.confine import bubblewrap

    if bubblewrap.tested():
        return False
    with contextlib.suppress(TypeError):  # fields of another version
        if (known := _known()) is not None:
            bubblewrap.use(bubblewrap.Bubblewrap(**known))
            return True
    _tested()
    return False


def confirmed() -> bool:
    """Test what was assumed; return whether it holds."""
    from builder.targets.local.confine import bubblewrap

    assumed = bubblewrap.use(None)
    return _tested() and bubblewrap.working() == assumed


def _tested() -> bool:
    from builder.targets.local.confine import bubblewrap

    if bubblewrap.refusal() is not None:
        return False
    if here := _here():
        content = json.dumps({"here": here, "bubblewrap": asdict(bubblewrap.working())})
        with contextlib.suppress(OSError, StorageError):
            atomic_write(cache_folder() / _FILE, content.encode(), durable=False)
    return True


def _known() -> dict[str, Any] | None:
    """Return the fields of the bubblewrap that works here, None if none is known."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, StorageError):
        content = json.loads((cache_folder() / _FILE).read_bytes())
        if content["here"] == _here():
            fields: dict[str, Any] = content["bubblewrap"]
            return fields
    return None


def _here() -> list[Any] | None:
    """Return the identity of this start of the machine, container, user and installation, or None
    if it is unknown."""
    with contextlib.suppress(OSError):
        start = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        places = [os.stat(path) for path in ("/", "/proc/self/ns/user", "/proc/self/ns/mnt")]
        numbers = [number for place in places for number in (place.st_dev, place.st_ino)]
        return [start, os.getuid(), sys.prefix, os.environ.get("PATH"), *numbers]
    return None
