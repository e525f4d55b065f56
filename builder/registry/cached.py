"""The registry for long-running processes: parsed again only after it was written."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from functools import lru_cache

from builder.errors import TemplateError
from builder.registry.files import find, is_large, is_url, load, parse_entry
from builder.registry.search import build_of, entries_with, entry_of
from builder.registry.values import VERSION, Registry

# A registry in an object store may be this old when a sandbox is opened.
_SHARED_SECONDS = 30.0
_Version = tuple[str, int, int, int]


def loaded(location: str) -> Registry:
    """Return the registry at an absolute path or URL. Raise `RegistryError`, `NetworkError`."""
    return _loaded(_version(location))


def about(word: str, location: str) -> Registry:
    """Return the registry with everything about one template, or about one build by its ref.

    Search a large file and leave out the other templates. Raise what `loaded` raises.
    """
    return _about(word, _version(location))


def about_build(ref: str, location: str, *, name: str, target: str) -> Registry:
    """Return the registry with at least one build of `name`. Raise what `loaded` raises."""
    return _about_build(ref, name, target, _version(location))


def _version(path: str) -> _Version:
    """Return a registry's path with values that change whenever it is written."""
    if is_url(path):
        return path, int(time.monotonic() / _SHARED_SECONDS), 0, 0
    try:
        status = os.stat(path)
    except OSError:
        return path, 0, 0, 0  # loading it reports what is wrong
    return path, status.st_mtime_ns, status.st_size, status.st_ino


def names_by_id() -> Mapping[str, str]:
    """Return the registry's names by template ID; empty if no registry can be read."""
    try:
        return _names(_version(find()))
    except (TemplateError, OSError):
        return {}


@lru_cache(maxsize=4)
def _names(version: _Version) -> Mapping[str, str]:
    return {
        template_id: record.name
        for record in _loaded(version).records()
        if isinstance(template_id := record.fields.get("template_id"), str)
    }


@lru_cache(maxsize=64)
def _about(word: str, version: _Version) -> Registry:
    path = version[0]
    try:
        if is_large(path):
            entry = entry_of(word, path)
            texts = {word: entry} if entry else entries_with(word, path)
            if texts is not None:
                entries = {name: _entry(text) for name, text in texts.items()}
                return Registry({"version": VERSION, "templates": entries}, path)
    except (OSError, ValueError):
        pass  # loading all of it reports what is wrong
    return _loaded(version)


@lru_cache(maxsize=64)
def _about_build(ref: str, name: str, target: str, version: _Version) -> Registry:
    path = version[0]
    with contextlib.suppress(OSError, ValueError):
        if is_large(path) and (text := build_of(name, target, ref, path)):
            entry = {"builds": {ref: parse_entry(text)}}
            return Registry({"version": VERSION, "templates": {name: {target: entry}}}, path)
    return _about(name, version)


_entry = lru_cache(maxsize=64)(parse_entry)  # most writes are about other templates


@lru_cache(maxsize=4)
def _loaded(version: _Version) -> Registry:
    return load(version[0], max_age=_SHARED_SECONDS)
