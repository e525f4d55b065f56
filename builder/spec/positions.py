"""Find the position of a key in a TOML file, for error messages.

The file was already parsed with `tomllib`. This module is loaded only to report a mistake.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from typing import Any

import tree_sitter
import tree_sitter_toml

Path = tuple[str | int, ...]


class Positions:
    """Key path → (line, column), counted from 1; list items in a path are counted from 0."""

    def __init__(self, text: str) -> None:
        parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_toml.language()))
        self._places: dict[Path, tuple[int, int]] = {}
        for path, node in _walk_document(parser.parse(text.encode()).root_node):
            row, column = node.start_point
            self._places.setdefault(path, (row + 1, column + 1))

    def of(self, path: Sequence[str | int]) -> tuple[int, int]:
        """Return the position of `path`, else of its nearest parent in the file, else (0, 0)."""
        key = tuple(path)
        while key and key not in self._places:
            key = key[:-1]
        return self._places.get(key, (0, 0))


def _walk_document(root: Any) -> Iterator[tuple[Path, Any]]:
    counts: dict[Path, int] = {}
    for node in root.named_children:
        if node.type == "pair":
            yield from _walk_pair((), node)
        elif node.type in ("table", "table_array_element"):
            key, *pairs = node.named_children
            base: Path = _key(key)
            if node.type == "table_array_element":
                number = counts.get(base, 0)
                counts[base] = number + 1
                yield base, key
                base = (*base, number)
            yield base, key
            for pair in pairs:
                if pair.type == "pair":
                    yield from _walk_pair(base, pair)


def _walk_pair(base: Path, pair: Any) -> Iterator[tuple[Path, Any]]:
    key, value = (child for child in pair.named_children if child.type != "comment")
    parts = _key(key)
    for length in range(1, len(parts)):
        yield base + parts[:length], key
    path = base + parts
    yield path, key
    yield from _walk_value(path, value)


def _walk_value(path: Path, value: Any) -> Iterator[tuple[Path, Any]]:
    children = [child for child in value.named_children if child.type != "comment"]
    if value.type == "array":
        for number, item in enumerate(children):
            yield (*path, number), item
            yield from _walk_value((*path, number), item)
    elif value.type == "inline_table":
        for pair in children:
            yield from _walk_pair(path, pair)


def _key(node: Any) -> tuple[str, ...]:
    if node.type == "dotted_key":
        return tuple(part for child in node.named_children for part in _key(child))
    text = node.text.decode()
    # Parsed as TOML, since the key may contain escapes.
    return (next(iter(tomllib.loads(f"{text} = 0"))) if node.type == "quoted_key" else text,)
