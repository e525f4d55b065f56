"""Files of a template outside of the home: stored in its environment, and at their paths in
confined sandboxes."""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from builder.system.documents import parse_json
from builder.system.files import atomic_write
from builder.targets.local.confine.walls import FILES, HOME, below, unavailable
from builder.targets.local.home import in_home

LIST = "confined.json"


def provided(target: str) -> bool:
    """Return whether a file can be at this path of a confined sandbox."""
    return in_home(target) is not None or not unavailable(target)


def workdir_provided(path: str) -> bool:
    """Return whether a confined sandbox can start in this folder, which it may write to."""
    if in_home(path) is not None:
        return True
    return not any(below(stored_path(path), each) for each in ("/etc", "/usr")) and provided(path)


def place_in(environment: Path, target: str) -> Path:
    """Return where the environment stores a file."""
    return environment / FILES / stored_path(target).lstrip("/")


def stored_path(target: str) -> str:
    """Return the path of a target, with links such as `/bin` to `/usr/bin` resolved."""
    top, *rest = target.strip("/").split("/")
    if os.path.islink(f"/{top}") and rest:
        return posixpath.normpath(posixpath.join("/", os.readlink(f"/{top}"), *rest))
    return posixpath.normpath(target)


def add(environment: Path, targets: Iterable[str]) -> None:
    """Add files and folders that an environment stores to its list. Raises `OSError`."""
    paths = {*listed(environment).paths, *map(stored_path, targets)}
    outermost = [path for path in paths if not any(below(path, other) for other in paths - {path})]
    _write(environment, Listed(paths=sorted(outermost), workdir=listed(environment).workdir))


def set_workdir(environment: Path, workdir: str) -> None:
    """Set the working folder of sandboxes, their home if it cannot be that. Raises `OSError`."""
    workdir = workdir if workdir_provided(workdir) else HOME
    _write(environment, Listed(paths=listed(environment).paths, workdir=workdir))


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """The files and folders (`paths`) of confined sandboxes outside of their home, and their
    working folder."""

    paths: Sequence[str] = ()
    workdir: str = HOME


def listed(environment: Path) -> Listed:
    """Return the list of an environment, which is empty for earlier versions. Raises `OSError`."""
    try:
        return Listed(**parse_json((environment / LIST).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return Listed()


def _write(environment: Path, content: Listed) -> None:
    text = json.dumps(asdict(content), indent=2) + "\n"
    atomic_write(environment / LIST, text.encode())
