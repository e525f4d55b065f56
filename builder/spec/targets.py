"""Check that the files, folders, downloads and models of a chain do not take each other's place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from builder.errors import Problem
from builder.spec.files import is_pattern
from builder.spec.spec_file import SpecFile
from builder.spec.variant import Model, Stage

# Folders that every image has: a file cannot take their place.
_FOLDERS = frozenset(
    (
        *("/home/user", "/home", "/root", "/opt", "/srv", "/mnt", "/tmp", "/etc", "/var"),  # noqa: S108
        *("/bin", "/lib", "/usr", "/usr/bin", "/usr/lib", "/usr/share", "/usr/local"),
        "/usr/local/bin",
    )
)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Placed:
    """What a table of a spec places at its target: folders, and files with their sources."""

    file: SpecFile
    key: tuple[str | int, ...]
    target: str
    files: Mapping[str, str]
    folders: tuple[str, ...] = ()

    def problem(self, message: str, hint: str | None = None) -> Problem:
        return self.file.problem((*self.key, "target"), message, hint)


def target_problems(chain: Sequence[SpecFile], stages: Sequence[Stage]) -> Iterator[Problem]:
    """Report files where a folder is needed, and targets that a spec writes twice."""
    placed = [
        entry
        for file, stage in zip(chain, stages, strict=True)
        for entry in (*_copied(file, stage), *_downloaded(file))
    ]
    files: dict[str, _Placed] = {}
    folders: dict[str, _Placed] = {}
    for entry in placed:
        yield from _collisions(entry, files, folders)
        files |= dict.fromkeys(entry.files, entry)
        folders |= dict.fromkeys(entry.folders, entry)
    models = ((model, stage.source) for stage in stages for model in stage.models)
    specs = {path: entry.file.shown for path, entry in files.items()}
    specs |= {model.target: source for model, source in models if _is_file(model)}
    for entry in placed:
        for parent in map(str, PurePosixPath(entry.target).parents):
            if parent in specs:
                yield entry.problem(_below(entry.target, parent, specs[parent]))
    yield from _workdir_problems(chain, specs)


def _copied(file: SpecFile, stage: Stage) -> Iterator[_Placed]:
    entries = {folder.key: folder for folder in stage.folders}
    targets = set()
    for number, table in enumerate(file.tables.files):
        key, target = ("files", number), table.target.rstrip("/")
        if target in targets and not is_pattern(table.source):
            continue  # reported when the files were read
        targets.add(target)
        if folder := entries.get(key):
            files = {entry.target: entry.source for entry in folder.files}
            folders = (target, *folder.folders)
            yield _Placed(file=file, key=key, target=target, files=files, folders=folders)
        elif table.source.endswith("/") or is_pattern(table.source):
            yield _Placed(file=file, key=key, target=target, files={}, folders=(target,))
        else:
            yield _Placed(file=file, key=key, target=target, files={target: table.source})


def _downloaded(file: SpecFile) -> Iterator[_Placed]:
    for number, table in enumerate(file.tables.download):
        key, target = ("download", number), table.target
        if table.extract:
            yield _Placed(file=file, key=key, target=target, files={}, folders=(target,))
        else:
            # Each is another source, even at the same URL.
            files = {target: f"download {number}"}
            yield _Placed(file=file, key=key, target=target, files=files)


def _collisions(
    entry: _Placed, files: Mapping[str, _Placed], folders: Mapping[str, _Placed]
) -> Iterator[Problem]:
    """Report what is at the same path as something before it. A child may replace a file of its
    parent, and a spec may name a file of a folder again to set its mode and owner."""
    for path, source in entry.files.items():
        other = files.get(path)
        if path in _FOLDERS:
            yield entry.problem(f"{path!r} is a folder", "add the name of the file")
        elif path in folders:
            message = f"{path!r} is a folder of {folders[path].file.shown}"
            yield entry.problem(message, "write another path for the file")
        elif other and other.file is entry.file and other.files[path] != source:
            yield entry.problem(f"{path!r} is written twice")
    for path in entry.folders:
        if other := files.get(path):
            message = f"{path!r} is a file of {other.file.shown}"
            yield entry.problem(message, "write another path for the folder")
    other = folders.get(entry.target)
    is_archive = entry.key[0] == "download" and bool(entry.folders)
    if is_archive and other and other.file is entry.file and other.target == entry.target:
        yield entry.problem(f"{entry.target!r} is written twice")


def _workdir_problems(chain: Sequence[SpecFile], specs: Mapping[str, str]) -> Iterator[Problem]:
    """Report a working folder at or below a file; `specs` has the spec of each file by its path."""
    tables = [(file, file.tables.workdir) for file in chain]
    set_by = [(file, table.path) for file, table in tables if table and table.model_fields_set]
    if not set_by:
        return
    file, path = set_by[-1]
    for place in map(str, (PurePosixPath(path), *PurePosixPath(path).parents)):
        if place in specs:
            message = _below(path, place, specs[place])
            if place == path:
                message = f"{path!r} is a file of {specs[place]}"
            yield file.problem(("workdir", "path"), message, "write the path of a folder")


def _is_file(model: Model) -> bool:
    if model.source == "path":
        return (model.project / model.location).is_file()
    return model.source == "url" and not model.location.endswith("/")


def _below(path: str, parent: str, shown: str) -> str:
    return f"{path!r} is below {parent!r}, a file of {shown}"
