"""Lock the models and datasets of specs to the hash of each of their files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from builder.errors import FetchError, did_you_mean
from builder.lock import http
from builder.lock.content import LockedModel, is_below
from builder.spec import secret_in
from builder.spec.variant import Model
from builder.system import processes, store
from builder.system.events import Event, Reporter

_SHOWN = 5
_MAX_TEXT_BYTES = 1 << 20


def lock_model(model: Model, report: Reporter) -> LockedModel:
    """Lock a model. Raise `FetchError`, `NetworkError`, `StorageError`, `MissingExtraError`."""
    processes.check_not_stopped()
    report(Event(kind="step", text=f"looking up the {model.kind} {model.location}"))
    if model.source == "repo":
        return _of_hub(model)
    if model.source == "path":
        return _locked(model, _of_project(model))
    if model.location.startswith("http"):
        sha256 = http.fetch(model.location)
        return _locked(model, [("", sha256, store.size_of(sha256) or 0)])
    return _locked(model, _of_object_store(model))


def _locked(model: Model, hashes: Iterable[tuple[str, str, int]]) -> LockedModel:
    return LockedModel(
        kind=model.kind, location=model.location, patterns=model.files, hashes=tuple(hashes)
    )


def _of_hub(model: Model) -> LockedModel:
    """The hub knows the hashes of large files; only the small others are fetched for theirs."""
    from builder.lock import hub

    repository = hub.look_up(model.kind, model.location, model.revision or "main")
    sizes = {file.path: file for file in repository.files}
    hashes = []
    for path in _selected(model, sizes):
        sha256 = sizes[path].sha256
        if sha256 is None:
            url = repository.revision.url_of(path)
            sha256 = (store.noted(url) or {}).get("sha256")
            if sha256 is None:
                sha256 = hub.fetch(repository.revision, path)
                store.note(url, {"sha256": sha256})
        hashes.append((path, sha256, sizes[path].size))
    return LockedModel(
        kind=model.kind,
        location=model.location,
        revision=model.revision,
        patterns=model.files,
        commit=repository.revision.commit,
        endpoint=repository.revision.endpoint,
        token=repository.token,
        hashes=tuple(hashes),
    )


def _of_project(model: Model) -> list[tuple[str, str, int]]:
    top = model.project / model.location
    if top.is_file():
        return [_hashed(top, "")]
    files = {}
    for path in sorted(top.rglob("*")):
        name = path.relative_to(top).as_posix()
        if path.is_symlink():
            raise FetchError(
                f"`{model.location}/{name}` is a symbolic link",
                hint="replace it by the file, or leave it out with `files`",
            )
        if path.is_file():
            files[name] = path
    return [_hashed(files[name], name) for name in _selected(model, files)]


def _hashed(path: Path, name: str) -> tuple[str, str, int]:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            text = file.read().decode("latin-1") if size <= _MAX_TEXT_BYTES else ""
            if kind := secret_in(text):  # keys are small; large files are data
                raise FetchError(
                    f"`{path}` contains {kind}",
                    hint="everyone who can use a template can read its content; leave the file out"
                    " with `files`",
                )
            file.seek(0)
            return name, store.hash_of(file), size
    except OSError as error:
        raise FetchError(f"`{path}` cannot be read: {error.strerror}") from error


def _of_object_store(model: Model) -> list[tuple[str, str, int]]:
    from builder.registry import object_store

    if not model.location.endswith("/"):
        return [_object(model.location, "")]
    names = object_store.names_below(model.location)
    for name in names:
        if not name or not is_below(name):
            raise FetchError(f"{model.location} has an object of the name {name!r}")
    return [_object(f"{model.location}{name}", name) for name in _selected(model, names)]


def _object(address: str, name: str) -> tuple[str, str, int]:
    sha256 = fetch_object(address)
    return name, sha256, store.size_of(sha256) or 0


def fetch_object(address: str) -> str:
    """Fetch an object into the store unless it is there and unchanged; return its SHA-256."""
    from builder.registry import object_store

    known = store.noted(address) or {}
    with store.incoming() as incoming:
        etag = object_store.download(address, incoming.write, known=known.get("etag"))
        if etag is None:
            return known["sha256"]
        incoming.keep()
        store.note(address, {"sha256": incoming.sha256, "etag": etag})
        return incoming.sha256


def _selected(model: Model, paths: Iterable[str]) -> Sequence[str]:
    """Return the paths that the patterns of a spec match, sorted; each must match one."""
    paths = sorted(paths)
    for pattern in model.files:
        if not any(fnmatchcase(path, pattern) for path in paths):
            shown = ", ".join(paths[:_SHOWN]) + (", …" if len(paths) > _SHOWN else "")
            raise FetchError(
                f"no file of the {model.kind} {model.location} matches {pattern!r}",
                hint=did_you_mean(pattern, paths) or f"it has {shown or 'no files'}",
            )
    selected = [
        path
        for path in paths
        if not model.files or any(fnmatchcase(path, pattern) for pattern in model.files)
    ]
    if not selected:
        raise FetchError(f"the {model.kind} {model.location} has no files")
    return selected
