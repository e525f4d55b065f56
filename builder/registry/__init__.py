"""The read side of registry.json: from a template's name to what a sandbox is created from.

It reads and looks up. It never writes (that is `builder.record`), and imports the standard library
only, so that an application pays next to nothing for it. It opens a connection only where the
registry is kept in an object store.
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
    found = load_only(name, path) or load(path)
    return found.lookup(name, target=target, channel=channel)


def resolve(
    name: str,
    *,
    target: str | None = None,
    channel: str = DEFAULT_CHANNEL,
    path: str | os.PathLike[str] | None = None,
) -> str:
    """Return what a sandbox of template `name` is created from: `"template_id:build_id"`.

    Raises the `LookupError`s of `Registry.lookup`; never returns another build instead.
    """
    return lookup(name, target=target, channel=channel, path=path).ref
