"""The read side of registry.json: resolve a template's name to the ref of a build.

This package never writes (`builder.record` does). It imports only the standard library, so a
look-up costs an application next to nothing, and connects only to a registry in an object store.
"""

from __future__ import annotations

import os

from builder.registry.files import find, is_url, load, load_only, parse, read_text
from builder.registry.identity import Digest, Ref
from builder.registry.values import (
    DEFAULT_CHANNEL,
    VERSION,
    Record,
    Registry,
    empty,
)

__all__ = [
    "DEFAULT_CHANNEL",
    "VERSION",
    "Digest",
    "Record",
    "Ref",
    "Registry",
    "empty",
    "find",
    "is_url",
    "load",
    "lookup",
    "parse",
    "read_text",
    "resolve",
]


def lookup(
    name: str,
    *,
    target: str | None = None,
    channel: str = DEFAULT_CHANNEL,
    path: str | os.PathLike[str] | None = None,
) -> Record:
    """Return the `Record` of a template; see `Registry.lookup` for the rules and errors."""
    path = os.fspath(path or find())
    recorded = load_only(name, path) or load(path)
    return recorded.lookup(name, target=target, channel=channel)


def resolve(
    name: str,
    *,
    target: str | None = None,
    channel: str = DEFAULT_CHANNEL,
    path: str | os.PathLike[str] | None = None,
) -> str:
    """Return the ref that a sandbox of template `name` is created from: `"template_id:build_id"`.

    Raise the `LookupError`s of `Registry.lookup`; never fall back to another build.
    """
    return lookup(name, target=target, channel=channel, path=path).ref
