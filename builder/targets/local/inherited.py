"""Take over what a template is from: the locks of its parent's packages, and fetched content.

The packages are installed again, from uv's cache, since each environment stands on its own: the
parent's may be replaced or removed.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from builder.errors import BuildError
from builder.lock.committed import text_of
from builder.spec import Parent
from builder.system.documents import parse_toml
from builder.targets.local import absolute, place
from builder.targets.local.confine.walls import FILES
from builder.targets.local.home import FETCHED, links_of, set_links

_TEMPLATE = "template"
_PARENT = "parent"
_OPEN = 0o755  # root's sandboxes are another user's


@dataclass(frozen=True, kw_only=True, slots=True)
class Requirements:
    """The locked packages of a stage, whose files are in `folder`."""

    folder: Path
    stem: str
    text: str
    torch_backend: str | None

    @property
    def source(self) -> tuple[Path, str | None]:
        """Return what packages must have in common to be installed at once."""
        return self.folder, self.torch_backend


def missing(parent: Parent) -> str | None:
    """Return why nothing can be built on a parent here, or None."""
    if parent.digest and place.find(parent.digest):
        return None
    return (
        f"the environment of `{parent.title}`, which it is from, is not on this machine;"
        f" `template-builder build {parent.title} --target {parent.target}` makes it"
    )


def take_over(parent: Parent, environment: Path) -> None:
    """Copy the locks, the home and the fetched content of a parent into a new environment.

    Raises `BuildError` if the parent is not on this machine, `OSError`.
    """
    if why := missing(parent):
        raise BuildError(why)
    source = place.folder_of(str(parent.digest))
    shutil.copytree(source / _TEMPLATE, environment / _TEMPLATE / _PARENT)
    shutil.copytree(source / "home", environment / "home", symlinks=True)
    if (elsewhere := absolute.listed(source).paths) and (source / FILES).is_dir():
        shutil.copytree(source / FILES, environment / FILES, symlinks=True, copy_function=_link)
        for folder, _, _ in os.walk(environment / FILES):
            os.chmod(folder, _OPEN)
        absolute.add(environment, elsewhere)
    if links := links_of(source):
        shutil.copytree(source / FETCHED, environment / FETCHED, symlinks=True, copy_function=_link)
        for folder, _, _ in os.walk(environment / FETCHED):
            os.chmod(folder, _OPEN)  # the parent is sealed
        set_links(environment, links)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.EEXIST:
            raise
        shutil.copy2(source, target, follow_symlinks=False)


def requirements_of(environment: Path) -> Iterator[Requirements]:
    """Yield the locked packages of an environment in the order of their stages, those of what it is
    from first. Raises `OSError`."""
    folder = environment / _TEMPLATE
    folders = [folder]
    while (folder := folder / _PARENT).is_dir():
        folders.insert(0, folder)
    for folder in folders:
        document = parse_toml((folder / "template.toml").read_text(encoding="utf-8"))
        for stage in document["lock"]["stages"]:
            if text := text_of(folder, stage["name"]):
                yield Requirements(
                    folder=folder,
                    stem=stage["name"],
                    text=text,
                    torch_backend=stage.get("torch-backend"),
                )
