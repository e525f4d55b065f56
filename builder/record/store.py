"""Change the registry, one change at a time and never half: a file under a lock, or an object."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from builder import registry
from builder.errors import StorageError
from builder.registry.model import Contents
from builder.registry.search import mark_of
from builder.system.files import atomic_write, exclusive, ignored

_T = TypeVar("_T")
_REMEMBERED = 64  # changes that other writers may add before a writer looks for its own


def update(location: str | os.PathLike[str], change: Callable[[Contents], _T]) -> _T:
    """Apply `change` to the freshly read registry, and return what `change` returns.

    `location` is a path or a URL. In an object store, `change` may be called several times, each
    time with what other writers have left; the registry lists the IDs of the latest changes, so
    that one whose answer was lost is not made twice. Raise what `change` raises, `RegistryError`,
    `StorageError`, `NetworkError`; then the registry is unchanged, unless the error says that this
    is unknown.
    """
    location = os.fspath(location)
    results: list[_T] = []

    def changed(text: str | None) -> str:
        current = registry.empty(location) if text is None else registry.parse(text, location)
        contents = current.contents
        before = dump(contents)
        results[:] = [change(contents)]
        if text is not None and dump(contents) == before:
            return text
        if shared:
            contents.changes[:] = [*contents.changes[1 - _REMEMBERED :], identity]
        return dump(contents)

    shared = registry.is_url(location)
    identity = secrets.token_hex(8)
    if shared:
        from builder.registry import object_store

        def is_applied(text: str) -> bool:
            return identity in registry.parse(text, location).contents.changes

        object_store.swap(location, changed, is_applied=is_applied)
        return results[0]
    path = Path(os.path.realpath(location))  # behind a link, the file that it leads to
    with exclusive(ignored(path.parent / ".builder") / f"{path.name}.lock"):
        text = registry.read_text(os.fspath(path)) if os.path.lexists(path) else None
        new = changed(text)
        if new != text:
            leave_mark(path, atomic_write(path, new.encode()))
    return results[0]


def leave_mark(path: Path, written: os.stat_result) -> None:
    """Leave a mark beside a registry that proves that it is unchanged, so look-ups trust it."""
    place, mark = mark_of(os.fspath(path), written)
    with contextlib.suppress(StorageError):
        atomic_write(Path(place), mark.encode(), durable=False)


def dump(contents: Contents) -> str:
    """Return the registry as text: sorted and indented, so that merges stay local.

    Half a surrogate pair, left by programs that cut text off, stays an escape, as UTF-8 needs.
    """
    text = json.dumps(contents.to_json(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "backslashreplace").decode()
