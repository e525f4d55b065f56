"""Environments that nothing needs any more: found, and removed when they are still not in use."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

from builder.build import Needs, Waste
from builder.errors import from_os_error
from builder.files import atomic_write, cache_folder, exclusive, remove_tree
from builder.targets.local.place import MANIFEST, USED, find

__all__ = ["note_need", "remove", "unused"]

_PREFIX = "sha256-"


def note_need(environment: Path, registry: str) -> None:
    """Note which registry has a build with this environment, for whoever cleans up."""
    if registry:
        content = (registry if "://" in registry else os.path.realpath(registry)).encode()
        name = hashlib.sha256(content).hexdigest()[:16]
        atomic_write(_needs_folder(environment.name) / f"{name}.txt", content)


def unused(own: str, needs: Needs, protect: float) -> list[Waste]:
    """Environments without any registry that needs them, unused for `protect` seconds."""
    found = []
    for path in sorted((cache_folder() / "environments").glob(f"{_PREFIX}*")):
        digest = path.name.replace("-", ":", 1)
        last = max((_mtime(path / name) for name in (MANIFEST, USED)), default=0.0)
        whole = find(digest)
        if whole and time.time() - last < protect:
            continue
        if whole and (needs("", digest) or _needed_elsewhere(path.name, digest, own, needs)):
            continue
        if _running(path):
            continue
        days = (time.time() - last) / 86400
        why = f"no channel needs it, not used for {days:.0f} days" if whole else "not complete"
        if name := _template_of(path):
            why = f"{name}: {why}"
        found.append(
            Waste(
                kind="environment",
                identity=digest,
                subject=str(path),
                size=whole.size if whole else None,
                why=why,
            )
        )
    return sorted(found, key=lambda one: -(one.size or 0))


def remove(waste: Waste) -> str | None:
    """Remove an environment; why not, where somebody makes it or runs in it."""
    path = Path(waste.subject)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(
                exclusive(cache_folder() / "locks" / f"{path.name}.lock", wait=False)
            )
        except BlockingIOError:
            return "it is being made"
        if _running(path):
            return "something runs in it"
        # Out of the way in one step: nobody finds half of it. A name that a sweep takes up.
        going = path.with_name(f".making-{path.name}-{os.getpid()}")
        try:
            os.replace(path, going)
            remove_tree(going)
            remove_tree(_needs_folder(path.name))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise from_os_error(error, "removing an environment") from error
    return None


def _template_of(environment: Path) -> str | None:
    try:
        told = tomllib.loads((environment / "template" / "template.toml").read_text())
        return str(told["name"])
    except (OSError, ValueError, KeyError):
        return None


def _needed_elsewhere(name: str, digest: str, own: str, needs: Needs) -> bool:
    mine = own if "://" in own else os.path.realpath(own)
    for note in _needs_folder(name).glob("*.txt"):
        with contextlib.suppress(OSError, UnicodeDecodeError):
            registry = note.read_text()
            if registry != mine and needs(registry, digest):
                return True
    return False


def _needs_folder(name: str) -> Path:
    return cache_folder() / "needed" / name


def _mtime(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _running(environment: Path) -> bool:
    inside = f"{environment}{os.sep}"
    return any(inside in line for line in _command_lines())


def _command_lines() -> Iterator[str]:
    """Of every process that can be seen."""
    if os.path.isdir("/proc/self"):
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with contextlib.suppress(OSError):
                    yield Path("/proc", entry, "cmdline").read_bytes().decode("utf-8", "replace")
        return
    listed = subprocess.run(
        ["ps", "-axww", "-o", "args="],  # noqa: S607
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    yield from listed.stdout.splitlines()
