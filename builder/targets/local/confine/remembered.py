"""Remember the bubblewrap that works, until this machine restarts.

A test takes two processes: more than everything else in a plan, and a third of the time to open the
first sandbox with a kept zygote.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.errors import StorageError
from builder.system.files import atomic_write, cache_folder

if TYPE_CHECKING:
    from builder.targets.local.confine.bubblewrap import Bubblewrap, ConfinementError

_FILE = "confinement.json"
_assumed: Bubblewrap | None = None  # which this process uses and has not tested


def can_confine() -> bool:
    """Return whether sandboxes can be confined. Test it unless the answer is known to be yes."""
    return _known() is not None or refusal() is None


def refusal() -> ConfinementError | None:
    """Return why sandboxes cannot be confined, or None, as `bubblewrap.refusal` does. Remember the
    result of a test."""
    from builder.targets.local.confine import bubblewrap

    in_use = bubblewrap.in_use()
    refused = bubblewrap.refusal()
    if in_use is None:
        with contextlib.suppress(OSError, StorageError):
            if refused:
                (cache_folder() / _FILE).unlink(missing_ok=True)
            else:
                _remember(bubblewrap.working())
    return refused


def assumed() -> Bubblewrap | None:
    """Return the bubblewrap that this process uses but has not tested: the one that is known to
    work, unless the process uses another already."""
    from builder.targets.local.confine import bubblewrap

    global _assumed  # noqa: PLW0603 - one for all threads
    if bubblewrap.in_use() is None and (fields := _known()):
        with contextlib.suppress(TypeError):  # fields of another version
            program = bubblewrap.Bubblewrap(**fields)
            if (program.path, program.bundled) in bubblewrap.places():
                bubblewrap.assume(program)
                _assumed = program
    return _assumed


def confirmed(program: Bubblewrap) -> bool:
    """Test a bubblewrap that was assumed, unless that was done meanwhile; return whether it
    works."""
    from builder.targets.local.confine import bubblewrap

    global _assumed  # noqa: PLW0603
    if program == _assumed:
        bubblewrap.forget()
    works = refusal() is None and bubblewrap.working() == program
    _assumed = None
    return works


def _remember(program: Bubblewrap) -> None:
    if here := _here():
        content = {"here": here, "bubblewrap": asdict(program), "file": _identity(program.path)}
        atomic_write(cache_folder() / _FILE, json.dumps(content).encode(), durable=False)


def _known() -> dict[str, Any] | None:
    """Return the fields of the bubblewrap that works here, None if none is known."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, StorageError):
        content = json.loads((cache_folder() / _FILE).read_bytes())
        fields: dict[str, Any] = content["bubblewrap"]
        if content["here"] == _here() and content["file"] == _identity(fields["path"]):
            return fields
    return None


def _identity(path: str) -> list[int]:
    status = os.stat(path)
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns]


def _here() -> list[Any] | None:
    """Return the identity of this start of the machine, container, user and installation, or None
    if it is unknown."""
    with contextlib.suppress(OSError):
        start = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        places = [os.stat(path) for path in ("/", "/proc/self/ns/user", "/proc/self/ns/mnt")]
        numbers = [number for place in places for number in (place.st_dev, place.st_ino)]
        return [start, os.getuid(), sys.prefix, *numbers]
    return None
