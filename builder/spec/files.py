"""Read the files, folders and patterns of the variants folder that a spec copies."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from builder.spec.addresses import wheel_of
from builder.spec.downloads import owner_of
from builder.spec.secret_shapes import NO_SECRETS, secret_in
from builder.spec.spec_file import SpecFile
from builder.spec.variant import FileEntry, FolderEntry

if TYPE_CHECKING:
    from builder.spec.models import FileTable

_PATTERN = re.compile(r"[*?[]")
_MAX_TEXT_BYTES = 1 << 20
_MAX_SOURCE_BYTES = 64 << 20
# Their modes are set by one command, whose length is limited.
_MAX_FILES = 500
# Made by Python beside a module; not part of a project.
_CACHES = {"__pycache__"}


def is_pattern(source: str) -> bool:
    """Whether a source is a pattern (`data/*.csv`), not the path of a file or folder."""
    return bool(_PATTERN.search(source))


def files_of(folder: Path, file: SpecFile) -> tuple[tuple[FileEntry, ...], tuple[FolderEntry, ...]]:
    """Return the single files, then the folders and patterns, that `[[files]]` copies, and note
    mistakes."""
    files, folders, seen = [], [], set[str]()
    for number, table in enumerate(file.tables.files):
        target = table.target.rstrip("/")
        if target in seen and not is_pattern(table.source):
            file.add(("files", number, "target"), f"{table.target!r} is written twice")
            continue
        seen.add(target)
        key = ("files", number, "source")
        owner = owner_of(target, table.owner)
        if table.source.endswith("/") or is_pattern(table.source):
            if entry := _folder_entry(folder, file, key, table, owner):
                folders.append(entry)
            continue
        if table.folder_mode:
            message = f"{table.source!r} is a single file"
            file.add(("files", number, "folder-mode"), message, "write `mode`, or remove the key")
        if table.target.endswith("/"):
            message = f"{table.source!r} is a single file, but {table.target!r} is a folder"
            hint = f"write '{target}/{PurePosixPath(table.source).name}'"
            file.add(("files", number, "target"), message, hint)
        content = read(folder, file, key, table.source)
        if content is not None:
            files.append(
                FileEntry(
                    source=table.source,
                    target=target,
                    mode=table.mode or "0644",
                    owner=owner,
                    content=content,
                )
            )
    return tuple(files), tuple(folders)


def wheels_of(folder: Path, file: SpecFile) -> tuple[FileEntry, ...]:
    """Return the wheels of the project that `python.packages` names, and note mistakes."""
    table, wheels = file.tables.python, []
    for number, requirement in enumerate(table.packages if table else ()):
        if source := wheel_of(requirement):
            content = read(folder, file, ("python", "packages", number), source)
            if content is not None:
                target = f"/opt/template/wheels/{file.stem}/{source.rpartition('/')[2]}"
                wheels.append(FileEntry(source=source, target=target, mode="0644", content=content))
    return tuple(wheels)


def read(folder: Path, file: SpecFile, key: Sequence[str | int], source: str) -> bytes | None:
    """Return the content of a file, or note at `key` why it cannot be copied."""
    path = folder / source
    below = (p for p in (path, *path.parents) if len(p.parts) > len(folder.parts))
    if any(part.is_symlink() for part in below):
        file.add(key, f"{source!r} is a symbolic link, or is below one")
        return None
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            file.add(key, f"{source!r} is a folder", f"write {source + '/'!r} to copy its content")
            return None
        if not stat.S_ISREG(status.st_mode):
            file.add(key, f"{source!r} is not a regular file")
            return None
        if status.st_size > _MAX_SOURCE_BYTES:
            message = f"{source!r} is larger than {_MAX_SOURCE_BYTES >> 20} MiB"
            hint = "offer it at an address: `[[download]]` and `python.packages` take one"
            file.add(key, message, hint)
            return None
        content = path.read_bytes()
    except OSError as error:
        file.add(key, f"{source!r} cannot be read: {error.strerror}")
        return None
    text = content.decode("latin-1") if len(content) <= _MAX_TEXT_BYTES else ""
    if kind := secret_in(text):  # keys are small; large files are data
        file.add(key, f"{source!r} contains {kind}; {NO_SECRETS}")
        return None
    return content


def matches(folder: Path, source: str) -> list[str]:
    """Return the files of a folder (`app/`) or those that match a pattern (`data/*.csv`), as sorted
    paths inside the variants folder. Raise `OSError`."""
    if is_pattern(source):
        matching = (path for path in folder.glob(source) if path.is_symlink() or path.is_file())
        return sorted(path.relative_to(folder).as_posix() for path in matching)
    paths = []
    for parent, names, files in os.walk(folder / source, onerror=_raise):
        links = [name for name in names if Path(parent, name).is_symlink()]
        names[:] = [name for name in names if name not in _CACHES and name not in links]
        paths += [Path(parent, name).relative_to(folder).as_posix() for name in (*files, *links)]
    return sorted(paths)


def _raise(error: OSError) -> None:
    raise error


def _folder_entry(
    folder: Path, file: SpecFile, key: Sequence[str | int], table: FileTable, owner: str
) -> FolderEntry | None:
    source, target = table.source, table.target.rstrip("/")
    by_pattern = is_pattern(source)
    if by_pattern and not table.target.endswith("/"):
        hint = f"write {table.target + '/'!r}: the files keep their names below it"
        file.add((*key[:-1], "target"), f"{source!r} may match several files", hint)
        return None
    try:
        paths = matches(folder, source)
    except OSError as error:
        file.add(key, f"{source!r} cannot be read: {error.strerror}")
        return None
    if not paths:
        file.add(key, f"nothing matches {source!r}" if by_pattern else f"{source!r} has no files")
        return None
    if len(paths) > _MAX_FILES:
        message = f"{source!r} has {len(paths):,} files, more than {_MAX_FILES}"
        file.add(key, message, "put them into a package or an archive")
        return None
    files: dict[str, FileEntry] = {}
    for path in paths:
        name = PurePosixPath(path).name if by_pattern else path.removeprefix(source)
        content = read(folder, file, key, path)
        if content is None:
            return None
        if name in files:
            file.add(key, f"{files[name].source!r} and {path!r} would both be {target}/{name}")
            return None
        executable = os.access(folder / path, os.X_OK) and (folder / path).stat().st_mode & 0o100
        files[name] = FileEntry(
            source=path,
            target=f"{target}/{name}",
            mode=table.mode or ("0755" if executable else "0644"),
            owner=owner,
            content=content,
        )
    parents = {str(parent) for name in files for parent in PurePosixPath(name).parents}
    made_folders = [target, *sorted(f"{target}/{name}" for name in parents - {"."})]
    return FolderEntry(
        source=source,
        target=target,
        owner=owner,
        files=tuple(files.values()),
        # A pattern adds to a folder that may exist.
        folders=() if by_pattern else tuple(made_folders),
        folder_mode=table.folder_mode or "0755",
        key=("files", key[1]),
    )
