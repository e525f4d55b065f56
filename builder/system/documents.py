"""Parse JSON and TOML from outside, with our own limit on how deeply values are nested.

The limits of Python's parsers depend on the version and the caller. Here the depth is checked
before they begin.
"""

from __future__ import annotations

import json
import re
from itertools import accumulate

if False:  # for type checkers; importing typing costs as much as all the rest
    from collections.abc import Callable
    from typing import Any

MAX_DEPTH = 100
_OUTSIDE = bytes(byte for byte in range(256) if byte not in b'[]{}"')
_JSON_STRING = re.compile(rb'"[^"]*"')
_CHANGES = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1, ord('"'): 0}
# A string, a comment, or a bracket.
_TOML_PART = re.compile(
    r'"""(?:\\.|[^\\])*?"""|\'\'\'.*?\'\'\'|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'|\#[^\n]*|[\[\]{}]',
    re.DOTALL,
)


class NestingError(ValueError):
    """A document is nested too deeply; `offset` is where, in characters, if known."""

    def __init__(self, limit: int, offset: int | None = None) -> None:
        super().__init__(f"it is nested deeper than {limit} levels")
        self.offset = offset


def parse_json(
    text: str | bytes, *, object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None
) -> Any:
    """Return the value of a JSON document. Raises `ValueError`, also if it is nested deeper than
    `MAX_DEPTH` levels."""
    if isinstance(text, bytes | bytearray):
        text = text.decode(json.detect_encoding(text), "surrogatepass")
    if has_deep_brackets(text):
        raise NestingError(MAX_DEPTH)
    return json.loads(text, object_pairs_hook=object_pairs_hook)


def has_deep_brackets(text: str) -> bool:
    """Return whether brackets and braces outside of JSON's strings nest beyond `MAX_DEPTH`."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return False
    encoded = text.encode("utf-8", "surrogatepass").replace(b"\\\\", b"").replace(b'\\"', b"")
    # Most strings hold no bracket and are two quotes by now.
    marks = encoded.translate(None, _OUTSIDE).replace(b'""', b"")
    brackets = _JSON_STRING.sub(b"", marks)
    return max(accumulate(map(_CHANGES.__getitem__, brackets)), default=0) > MAX_DEPTH


def parse_toml(text: str, *, max_depth: int = MAX_DEPTH) -> dict[str, Any]:
    """Return the table of a TOML document. Raises `ValueError`, also if it is nested deeper than
    `max_depth` levels."""
    import tomllib

    depth = 1  # the document itself is a table
    few = text.count("[") + text.count("{") < max_depth
    for part in () if few else _TOML_PART.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(part[0], 0)
        if depth > max_depth:
            raise NestingError(max_depth, part.start())
    document = tomllib.loads(text)
    level: list[Any] = [document]
    for _ in range(max_depth):
        level = [
            value
            for outer in level
            for value in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(value, dict | list)
        ]
        if not level:
            return document
    raise NestingError(max_depth)  # by dotted keys or table headers
