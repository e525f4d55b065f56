"""Changing the registry, one change at a time, never half: a file under a lock, or an object."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from builder import registry
from builder.files import atomic_write, exclusive

__all__ = ["dump", "update"]

_T = TypeVar("_T")


def update(location: str | os.PathLike[str], change: Callable[[dict[str, Any]], _T]) -> _T:
    """Apply `change` to the registry's data, read anew; returns what `change` returns.

    `location` is a file's path or a URL. On an object store `change` may be called several times,
    each time with what other writers have left. Raises what `change` raises, `RegistryError`,
    `StorageError`, `NetworkError`; then the registry is as it was.
    """
    location = os.fspath(location)
    results: list[_T] = []

    def changed(text: str | None) -> str:
        found = (
            registry.empty(location)
            if text is None
            else registry.parse(text, location, strict=True).checked()
        )
        results[:] = [change(found.data)]
        return dump(found.data)

    if registry.is_url(location):
        from builder import shared_registry

        shared_registry.swap(location, changed)
        return results[0]
    path = Path(os.path.realpath(location))  # of a link, the file that it leads to is the registry
    with exclusive(path.parent / ".builder" / f"{path.name}.lock"):
        text = registry.read_text(os.fspath(path)) if os.path.lexists(path) else None
        atomic_write(path, changed(text).encode())
    return results[0]


def dump(data: dict[str, Any]) -> str:
    """The registry as text: sorted, indented by two, a final newline; merges stay local.

    Half a surrogate pair, which programs that cut text off leave behind, stays the escape that it
    was: UTF-8 has no form for it.
    """
    text = json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "backslashreplace").decode()
