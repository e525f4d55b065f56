"""Link fetched content from the store into an environment, for the homes of its sandboxes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from builder.render.fetched import Fetched, obtained, put
from builder.system.events import Reporter
from builder.targets.local import absolute
from builder.targets.local.home import FETCHED, in_home, links_of, set_links

_EXECUTABLE = 0o111


def link_content(contents: Iterable[Fetched], environment: Path, *, report: Reporter) -> None:
    """Put content into an environment, and link to that for the home folder from the environment's
    home. Raises `OSError`, `FetchError`, `NetworkError`, `StorageError`."""
    paths, elsewhere = [], []
    for content in contents:
        path = in_home(content.target)
        if path is not None:
            place = environment / FETCHED / path
        elif absolute.provided(content.target):
            place = absolute.place_in(environment, content.target)
        else:
            continue
        if content.extract or int(content.mode or "0", 8) & _EXECUTABLE:
            _put(content, place, report)  # the files of the store have one mode
        else:
            for file in content.files:
                _link(obtained(file, report=report), place / file.path if file.path else place)
        if path is None:
            elsewhere.append(content.target)
        else:
            paths.append(path)
    if elsewhere:
        absolute.add(environment, elsewhere)
    if not paths:
        return
    paths += links_of(environment)  # of what the template is from
    set_links(environment, sorted(_outermost(paths, environment / FETCHED)))


def _put(content: Fetched, place: Path, report: Reporter) -> None:
    """Write content to `place`, merging it with what is there."""
    new = place.with_name(f".{place.name}.new")
    put(content, new, report=report)
    if not place.is_dir():
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(new, place)
        return
    shutil.copytree(new, place, symlinks=True, dirs_exist_ok=True)
    shutil.rmtree(new)


def _link(source: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    try:
        os.link(source, place)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, place)


def _outermost(paths: Sequence[str], folder: Path) -> set[str]:
    """Return the paths to link, without those below others; for the home itself, all in it."""
    if "." in paths:
        return set(os.listdir(folder))
    return {path for path in paths if not any(path.startswith(f"{other}/") for other in paths)}
