"""What was rendered, on disk: the folder `generated/` of a project, and the context of a build."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from builder.errors import RenderDriftError, StorageError, from_os_error
from builder.render.dockerfile import Rendered
from builder.system.files import atomic_write, exclusive, ignored, remove_tree


def write(variants: Iterable[Rendered], generated: Path, *, all_variants: bool) -> None:
    """Bring `generated/` in line, touching only what differs.

    With `all_variants`, folders of variants that are no more go as well. Raises `StorageError`.
    """
    variants = list(variants)
    check_place(variants, generated)
    with _writing(generated):
        for rendered in variants:
            write_files(rendered, generated / rendered.variant.name)
    if all_variants:
        prune(variants, generated)


def prune(variants: Iterable[Rendered], generated: Path) -> None:
    """Remove the folders below `generated/` of variants that are not among `variants`."""
    with _writing(generated):
        for folder in _orphans(list(variants), generated):
            remove_tree(folder)


def check_place(variants: Iterable[Rendered], generated: Path) -> None:
    """Raises `StorageError` where `write` could not write."""
    for rendered in variants:
        for link in _links(rendered, generated / rendered.variant.name):
            raise StorageError(
                f"`{link}` is a symbolic link, and what it leads to is not ours to write",
                hint="remove the link and run the same command again",
            )
    folder = generated if generated.exists() else generated.parent
    reason = 0 if folder.is_dir() else errno.ENOTDIR
    if not reason and not os.access(folder, os.W_OK | os.X_OK):
        reason = errno.EACCES
    if reason:
        raise from_os_error(OSError(reason, os.strerror(reason), str(folder)), "writing generated/")


def write_files(rendered: Rendered, folder: Path) -> None:
    """Bring a folder in line with one variant, touching only what differs."""
    for file in rendered.files:
        path = folder / file.path
        if not path.is_file() or path.is_symlink() or path.read_bytes() != file.content:
            atomic_write(path, file.content, mode=file.mode)
        elif stat.S_IMODE(path.stat().st_mode) != file.mode:
            path.chmod(file.mode)  # what E2B caches goes by the mode, too
    for path in _strangers(rendered, folder):
        try:
            path.unlink()
        except OSError as error:
            raise from_os_error(error, f"removing `{path}`") from error


def _writing(generated: Path) -> AbstractContextManager[None]:
    """One writer at a time: what looks like a stray file may be another one's temporary file."""
    return exclusive(ignored(generated.parent / ".builder") / "generated.lock")


def drift(variants: Iterable[Rendered], generated: Path, *, all_variants: bool) -> None:
    """Compare `generated/` with what the specs and the committed locks render to.

    Raises `RenderDriftError` with every file that is missing, differs or should not be there.
    """
    variants = list(variants)
    differences = []
    for rendered in variants:
        folder = generated / rendered.variant.name
        if links := list(_links(rendered, folder)):
            differences += [
                f"generated/{x.relative_to(generated)} is a symbolic link" for x in links
            ]
            continue
        for file in rendered.files:
            path = folder / file.path
            shown = f"generated/{rendered.variant.name}/{file.path}"
            if not path.is_file():
                differences.append(f"{shown} is missing")
            elif path.read_bytes() != file.content:
                differences.append(f"{shown} differs")
        differences += [
            f"generated/{rendered.variant.name}/{path.relative_to(folder)} belongs to nothing"
            for path in _strangers(rendered, folder)
        ]
    if all_variants:
        differences += [f"generated/{f.name} has no variant" for f in _orphans(variants, generated)]
    if differences:
        raise RenderDriftError(
            "generated/ is not what the specs and the committed locks say:\n"
            + "\n".join(f"  {line}" for line in differences),
            hint="run `template-builder render` and commit the result",
        )


def _links(rendered: Rendered, folder: Path) -> Iterable[Path]:
    """The folders of a variant that are symbolic links: what is behind one is not ours."""
    inner = {folder / p for f in rendered.files for p in Path(f.path).parents}
    return sorted(path for path in {folder, *inner} if path.is_symlink())


def _strangers(rendered: Rendered, folder: Path) -> list[Path]:
    ours = {file.path for file in rendered.files}
    paths = (p for p in folder.rglob("*") if p.is_symlink() or not p.is_dir())
    return sorted(p for p in paths if p.relative_to(folder).as_posix() not in ours)


def _orphans(variants: Sequence[Rendered], generated: Path) -> list[Path]:
    names = {rendered.variant.name for rendered in variants}
    # Only folders that this program wrote: somebody else's are not ours to remove.
    folders = {path.parent for path in generated.glob("*/template.toml")}
    return sorted(f for f in folders if f.name not in names and not f.is_symlink())
