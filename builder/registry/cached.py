"""The registry as a long-running process reads it: parsed again only when it was written."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from functools import lru_cache

from builder.errors import TemplateError
from builder.registry.files import find, is_url, load
from builder.registry.values import Registry

__all__ = ["loaded", "names_by_id"]

# Of a registry in an object store, what was read that long ago is good enough to open a sandbox.
_SHARED_SECONDS = 30.0


def loaded(location: str) -> Registry:
    """The registry at an absolute path or a URL. Raises `RegistryError`, `NetworkError`."""
    return _loaded(*_version(location))


def _version(path: str) -> tuple[str, int, int]:
    """A registry, and what changes when it is written."""
    if is_url(path):
        return path, int(time.monotonic() / _SHARED_SECONDS), 0
    try:
        status = os.stat(path)
    except OSError:
        return path, 0, 0  # reading it says what is wrong
    return path, status.st_mtime_ns, status.st_size


def names_by_id() -> Mapping[str, str]:
    """The registry's names by template ID; none where there is no registry to be read."""
    try:
        return _names(*_version(find()))
    except (TemplateError, OSError):
        return {}


@lru_cache(maxsize=4)
def _names(path: str, changed_ns: int, size: int) -> Mapping[str, str]:
    names: dict[str, str] = {}
    for name, targets in _loaded(path, changed_ns, size).templates.items():
        for entry in targets.values() if isinstance(targets, dict) else ():
            builds = entry.get("builds", {}) if isinstance(entry, dict) else {}
            for fields in builds.values() if isinstance(builds, dict) else ():
                if isinstance(fields, dict) and isinstance(fields.get("template_id"), str):
                    names[fields["template_id"]] = name
    return names


@lru_cache(maxsize=4)
def _loaded(path: str, _changed_ns: int, _size: int) -> Registry:
    return load(path, max_age=_SHARED_SECONDS)
