"""Keep the tables of valid specs in the cache, since validation loads pydantic, which takes longer
than a plan with nothing to do.

An entry is only valid for the same texts and the same version of the program. Every run checks the
specs of a chain together, and the files that they name.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from builder.errors import StorageError
from builder.sandbox import network
from builder.spec.secret_shapes import local_secret_in, texts_of
from builder.spec.spec_file import SpecFile
from builder.system import documents
from builder.system.files import atomic_write, cache_folder

# The key of a table's written keys; no variable of `env` has this name.
_WRITTEN = ""
# The other modules whose version decides on what is valid.
_VALIDATORS = ("pydantic", "packaging")


class Table:
    """A validated table of a spec, with the fields of its model."""

    def __init__(self, fields: dict[str, Any], written: Sequence[str]) -> None:
        self.__dict__.update(fields, **{_WRITTEN: written})

    @property
    def model_fields_set(self) -> Sequence[str]:
        """The fields that the spec sets, as in a model."""
        written: Sequence[str] = self.__dict__[_WRITTEN]
        return written


def validate(folder: Path, files: Sequence[SpecFile]) -> None:
    """Set the tables of the specs in `folder`, or note their mistakes."""
    path, key = _place(folder), _key(files)
    if path and _recall(path, key, files):
        return
    from builder.spec.parse import parse

    for file in files:
        parse(file)
    if path and not any(file.problems for file in files):
        specs = [(file.model, file.declared, file.defaults) for file in files]
        content = json.dumps(specs, default=vars).encode()
        with contextlib.suppress(StorageError):
            atomic_write(path, _seal(key, content) + b"\n" + content, durable=False)


def _place(folder: Path) -> Path | None:
    """Return where the specs of a folder are kept, if that is possible."""
    with contextlib.suppress(StorageError):
        # Few names, so that files of folders that are gone do not pile up.
        name = hashlib.sha256(os.fsencode(folder.absolute())).hexdigest()[:2]
        return cache_folder() / "specs" / f"{name}.json"
    return None


def _recall(path: Path, key: bytes, files: Sequence[SpecFile]) -> bool:
    """Set the tables of the specs from the cache; return False if they are not there."""
    with contextlib.suppress(OSError):
        seal, _, content = path.read_bytes().partition(b"\n")
        if seal == _seal(key, content):
            texts = "\0".join(text for _, text in texts_of(json.loads(content), ()))
            if local_secret_in(texts):  # it was no secret when it was kept
                return False
            for file, kept in zip(files, json.loads(content, object_hook=_table), strict=True):
                file.model, file.declared, file.defaults = kept
                file.name, file.extends = file.tables.name, file.tables.extends
            return True
    return False


def _table(fields: dict[str, Any]) -> Any:
    return Table(fields, fields.pop(_WRITTEN)) if _WRITTEN in fields else fields


def _seal(key: bytes, content: bytes) -> bytes:
    return hashlib.sha256(key + content).hexdigest().encode()


def _key(files: Sequence[SpecFile]) -> bytes:
    """Return a hash of the texts, and of every module that decides which specs are valid."""
    decisive = hashlib.sha256(sys.version.encode())
    for path in _validators():
        with contextlib.suppress(OSError):
            decisive.update(hashlib.sha256(path.read_bytes()).digest())
    for file in files:
        decisive.update(hashlib.sha256(repr((file.stem, file.text)).encode()).digest())
    return decisive.digest()


def _validators() -> Iterator[Path]:
    yield from sorted(Path(__file__).parent.glob("*.py"))
    yield from (Path(network.__file__), Path(documents.__file__))
    for name in _VALIDATORS:
        if (module := PathFinder.find_spec(name)) and module.origin:
            yield from (Path(module.origin), Path(module.origin).with_name("version.py"))
