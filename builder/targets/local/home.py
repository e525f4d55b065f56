"""Make the home of a sandbox from that of its environment.

An environment has fetched content that belongs below a home in a folder of its own, to which the
homes have symbolic links.
"""

from __future__ import annotations

import json
import posixpath
import shutil
from collections.abc import Sequence
from pathlib import Path

from builder.system.documents import parse_json

FETCHED = "fetched"
_LINKS = "fetched.json"
_HOME = "/home/user"


def in_home(target: str) -> str | None:
    """Return the path of a target below the home folder, None if it is elsewhere."""
    if target == _HOME or target.startswith(f"{_HOME}/"):
        return posixpath.relpath(target, _HOME)
    return None


def copy_home(environment: Path, home: Path, *, inside: Path | None = None) -> None:
    """Make the home of a sandbox; `inside` is where it sees the environment, if elsewhere. Raises
    `OSError`."""
    shutil.copytree(environment / "home", home, symlinks=True)
    _link(environment, home, inside or environment)


def set_links(environment: Path, paths: Sequence[str]) -> None:
    """Set which paths of homes are links to the fetched content of an environment, and link to it
    from the environment's own home. Raises `OSError`."""
    (environment / _LINKS).write_text(json.dumps(paths), encoding="utf-8")
    _link(environment, environment / "home", environment)


def links_of(environment: Path) -> list[str]:
    """Return the paths that `set_links` has set. Raises `OSError`."""
    try:
        links: list[str] = parse_json((environment / _LINKS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    return links


def _link(environment: Path, home: Path, inside: Path) -> None:
    """Link to where the content is now, since environments can be moved."""
    for path in links_of(environment):
        _link_to(environment / FETCHED / path, home / path, inside / FETCHED / path)


def _link_to(source: Path, link: Path, target: Path) -> None:
    """Link to the `target` of fetched content, which is in `source`; files of the template that are
    inside of it go before it."""
    if link.is_symlink():
        link.unlink()
    elif link.is_dir() and source.is_dir():
        for child in source.iterdir():
            _link_to(child, link / child.name, target / child.name)
        return
    elif link.exists():
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target)
