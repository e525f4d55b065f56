"""One template's entry out of a large registry.json, without reading all of it.

The file is its own index: this program writes it with sorted keys, each template's on a line that
is indented by exactly four spaces. So a template is found by halving, and nothing but its own entry
is parsed. In a file that does not look like that, nothing is found, and all of it has to be read.
"""

from __future__ import annotations

import mmap
import os
import re

from builder.documents import parse_json

if False:  # for type checkers; importing typing costs as much as all the rest
    from typing import Any

__all__ = ["entry_of"]

_TEMPLATES = b'\n  "templates": {\n'
_KEY = b'\n    "'
_KEY_LINE = re.compile(rb'\n    ("(?:[^"\\\n]|\\.)*"): \{\n')
_END = re.compile(rb'\n  \},\n  "version": 1\n\}\n\Z')


def entry_of(name: str, path: str) -> Any:
    """The entry of template `name` (target → channels, builds), None where it is not found so.

    Raises `OSError` and `ValueError` where the file is not what this program writes.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as text:
            return _entry(name, text)
    finally:
        os.close(descriptor)


def _entry(name: str, text: mmap.mmap) -> Any:
    start = text.find(_TEMPLATES)
    end = _END.search(text, max(len(text) - 64, 0))
    if text[:2] != b"{\n" or start < 0 or end is None:
        return None
    low = first = start + len(_TEMPLATES) - 1
    high = last = end.start()
    found: tuple[int, int] | None = None
    while low < high:
        middle = (low + high) // 2
        at = text.find(_KEY, middle, high)
        if at < 0:
            high = middle
            continue
        key, after = _key(text, at)
        if key == name:
            found = at, after
            break
        if key < name:
            low = after - 1  # where the next key's line may begin
        else:
            high = middle
    if found is None:
        return None
    at, after = found
    close = text.find(b"\n    }", after - 1, last + 1)
    # A merge may have left the same template twice, or out of order: then all has to be read.
    before, following = text.rfind(_KEY, first, at), text.find(_KEY, after, last)
    if before >= 0 and _key(text, before)[0] >= name:
        return None
    if close < 0 or (following >= 0 and _key(text, following)[0] <= name):
        return None
    return parse_json(b"{\n" + text[after : close + len(b"\n    }")])


def _key(text: mmap.mmap, at: int) -> tuple[str, int]:
    """The key of the line at `at`, and where its table's first line begins."""
    line = _KEY_LINE.match(text, at)
    if line is None:
        raise ValueError("not a line that begins a template")
    return parse_json(line[1]), line.end()
