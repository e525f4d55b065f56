"""Write rendered files to disk: to `generated/` of a project, and to a build context."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from builder.errors import RenderDriftError, StorageError, from_os_error
from builder.render.dockerfile import Rendered
from builder.render.fetched import write_fetched
from builder.system.events import Reporter
from builder.system.files import atomic_write, exclusive, ignored, remove_tree


def write(variants: Iterable[Rendered], generated: Path, *, all_variants: bool) -> None:
    """Update `generated/`, touching only files that differ.

    With `all_variants`, remove folders of other variants. Raise `StorageError`.
    """
    variants = list(variants)
    check_place(variants, generated)
    with _writing(generated):
        for rendered in variants:
            write_files(rendered, generated / rendered.variant.name)
    if all_variants:
        prune(variants, generated)


def prune(variants: Iterable[Rendered], generated: Path) -> None:
    """Remove the folders of `generated/` that belong to none of `variants`."""
    with _writing(generated):
        for folder in _orphans(list(variants), generated):
            remove_tree(folder)


def check_place(variants: Iterable[Rendered], generated: Path) -> None:
    """Raise `StorageError` if `write` could not write."""
    for rendered in variants:
        for link in _links(rendered, generated / rendered.variant.name):
            raise StorageError(
                f"`{link}` is a symbolic link, which template-builder does not write through",
                hint="remove the link and run the same command again",
            )
    folder = generated if generated.exists() else generated.parent
    reason = 0 if folder.is_dir() else errno.ENOTDIR
    if not reason and not os.access(folder, os.W_OK | os.X_OK):
        reason = errno.EACCES
    if reason:
        raise from_os_error(OSError(reason, os.strerror(reason), str(folder)), "writing generated/")


def write_files(rendered: Rendered, folder: Path) -> None:
    """Update a folder to the files of one variant, touching only files that differ."""
    for file in rendered.files:
        path = folder / file.path
        if not path.is_file() or path.is_symlink() or path.read_bytes() != file.content:
            atomic_write(path, file.content, mode=file.mode)
        elif stat.S_IMODE(path.stat().st_mode) != file.mode:
            path.chmod(file.mode)  # the mode is part of E2B's cache key
    for path in _strangers(rendered, folder):
        try:
            path.unlink()
        except OSError as error:
            raise from_os_error(error, f"removing `{path}`") from error


def write_context(rendered: Rendered, folder: Path, *, report: Reporter) -> None:
    """Update a folder to the build context of one variant: its files, and what it fetches. Raise
    `StorageError`, `FetchError`, `NetworkError`."""
    write_files(rendered, folder)
    write_fetched(rendered.fetched, folder, report=report)


def _writing(generated: Path) -> AbstractContextManager[None]:
    """Lock out other writers, whose temporary files would look like stray files."""
    return exclusive(ignored(generated.parent / ".builder") / "generated.lock")


def drift(variants: Iterable[Rendered], generated: Path, *, all_variants: bool) -> None:
    """Compare `generated/` with freshly rendered files.

    Raise `RenderDriftError` with every file that is missing, differs or is superfluous.
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
            f"generated/{rendered.variant.name}/{path.relative_to(folder)} belongs to no template"
            for path in _strangers(rendered, folder)
        ]
    if all_variants:
        differences += [f"generated/{f.name} has no spec" for f in _orphans(variants, generated)]
    if differences:
        raise RenderDriftError(
            "generated/ does not match the specs and the committed locks:\n"
            + "\n".join(f"  {line}" for line in differences),
            hint="run `template-builder render` and commit the result",
        )


def _links(rendered: Rendered, folder: Path) -> Iterable[Path]:
    """Return the folders of a variant that are symbolic links."""
    inner = {folder / p for f in rendered.files for p in Path(f.path).parents}
    return sorted(path for path in {folder, *inner} if path.is_symlink())


def _strangers(rendered: Rendered, folder: Path) -> list[Path]:
    ours = {file.path for file in rendered.files}
    paths = (p for p in folder.rglob("*") if p.is_symlink() or not p.is_dir())
    return sorted(p for p in paths if p.relative_to(folder).as_posix() not in ours)


def _orphans(variants: Sequence[Rendered], generated: Path) -> list[Path]:
    names = {rendered.variant.name for rendered in variants}
    # Only folders that template-builder wrote.
    folders = {path.parent for path in generated.glob("*/template.toml")}
    return sorted(f for f in folders if f.name not in names and not f.is_symlink())
