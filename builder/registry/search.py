"""Find one template's entry in a large registry.json without parsing the whole file.

The file is its own index: template-builder writes it with sorted keys, each template's on a line
indented by exactly four spaces. A binary search finds the template, and only its entry is parsed.
In a file that does not look like that, nothing is found, and all of it must be read.

A merge or an edit by hand may leave a template twice, which readers of the whole file refuse.
template-builder leaves a mark beside the file that proves it is unchanged. Without the mark, the
whole text is searched for the name as another key of a table, except on lines indented as deep as
the inside of an entry.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import re

from builder.system.documents import parse_json

if False:  # for type checkers; importing typing costs as much as all the rest
    from collections.abc import Iterator

_TEMPLATES = b'\n  "templates": {\n'
_KEY = b'\n    "'
_NEXT_KEY = re.compile(_KEY)  # on texts of this kind four times as fast as `find`
_CLOSE = re.compile(rb"\n    \}")
_KEY_LINE = re.compile(rb'\n    ("(?:[^"\\\n]|\\.)*"): \{\n')
_END = re.compile(rb'\n  \},\n  "version": 1\n\}\n\Z')
_TABLE = re.compile(rb"\s*:\s*\{")
_ESCAPES = (b"\\u", b"\\/")  # which can spell a ref in another way
_INNER = 6  # the inside of a template's entry is indented by at least this many spaces
_LINE = 64  # how far back to look for an indent


def entry_of(name: str, path: str) -> bytes | None:
    """Return the JSON of the entry of template `name` (target → channels, builds), or None if this
    search cannot tell.

    Raise `OSError`, and `ValueError` if the file is not in the form that template-builder writes.
    """
    with _opened(path) as (text, as_written):
        place = _place_of(name, text)
        if place is None or not (as_written or _is_alone(name, text, place[0])):
            return None
        at, end = place
        return b"{\n" + text[at:end]


def build_of(name: str, target: str, ref: str, path: str) -> bytes | None:
    """Return the JSON of one build of a template; None if this search cannot tell.

    Raise `OSError`, and `ValueError` if the file is not in the form that template-builder writes.
    """
    with _opened(path) as (text, as_written):
        place = _place_of(name, text) if as_written else None
        for key, indent in ((target, 6), (ref, 10)):
            place = place and _table_in(place, key, indent, text)
        return place and b"{\n" + text[place[0] : place[1]]


def _table_in(
    place: tuple[int, int], key: str, indent: int, text: mmap.mmap
) -> tuple[int, int] | None:
    """Return where the table with this key and indent begins, and its closing brace ends."""
    begin, close = b"\n%*s%s: {\n" % (indent, b"", _quoted(key)), b"\n%*s}" % (indent, b"")
    start = text.find(begin, place[0] - 1, place[1])
    end = text.find(close, start, place[1])
    return None if start < 0 or end < 0 else (start + len(begin), end + len(close))


def entries_with(ref: str, path: str) -> dict[str, bytes] | None:
    """Return the JSON of each entry that may hold the build `ref`, by template name; None if this
    search cannot tell.

    Raise `OSError`, and `ValueError` if the file is not in the form that template-builder writes.
    """
    quoted = _quoted(ref)
    entries: dict[str, bytes] = {}
    with _opened(path) as (text, as_written):
        escaped = not as_written and any(text.find(escape) >= 0 for escape in _ESCAPES)
        if escaped or _place_of(ref, text):
            return None
        at = text.find(quoted)
        while at >= 0:
            end = at + len(quoted)
            if _TABLE.match(text, end):
                name, start = _key(text, text.rfind(_KEY, 0, at))
                place = _place_of(name, text)
                if place is None or not start <= at < place[1]:
                    return None
                if not (as_written or _is_alone(name, text, start)):
                    return None
                end = place[1]
                entries[name] = b"{\n" + text[start:end]
            at = text.find(quoted, end)
    return entries


@contextlib.contextmanager
def _opened(path: str) -> Iterator[tuple[mmap.mmap, bool]]:
    """Yield the text of a file, and whether it is unchanged since template-builder wrote it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        as_written = _is_as_written(path, os.fstat(descriptor))
        with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as text:
            yield text, as_written
    finally:
        os.close(descriptor)


def mark_of(path: str, status: os.stat_result) -> tuple[str, str]:
    """Return the path and the content of the mark beside a registry."""
    folder, name = os.path.split(os.path.realpath(path))
    mark = f"{status.st_ino} {status.st_size} {status.st_mtime_ns}\n"
    return os.path.join(folder, ".builder", f"{name}.written"), mark


def _is_as_written(path: str, status: os.stat_result) -> bool:
    place, mark = mark_of(path, status)
    try:
        with open(place, encoding="ascii") as file:
            return file.read(len(mark) + 1) == mark
    except (OSError, ValueError):
        return False


def _place_of(name: str, text: mmap.mmap) -> tuple[int, int] | None:
    """Return where the inside of a template's table begins and its closing brace ends."""
    start = text.find(_TEMPLATES)
    end = _END.search(text, max(len(text) - 64, 0))
    if text[:2] != b"{\n" or start < 0 or end is None:
        return None
    low = start + len(_TEMPLATES) - 1
    high = last = end.start()
    while low < high:
        middle = (low + high) // 2
        # It begins before `high`.
        following = _NEXT_KEY.search(text, middle, high + len(_KEY) - 1)
        if following is None:
            high = middle
            continue
        key, after = _key(text, following.start())
        if key == name:
            close = _CLOSE.search(text, after - 1, last + 1)
            return close and (after, close.end())
        if key < name:
            low = after - 1  # where the next key's line may begin
        else:
            high = middle
    return None


def _is_alone(name: str, text: mmap.mmap, place: int) -> bool:
    """Return whether only the table that begins before `place` can be template `name`'s."""
    quoted = _quoted(name)
    if text.find(_TEMPLATES, text.find(_TEMPLATES) + 1) >= 0:
        return False
    at = text.find(quoted)
    while at >= 0:
        table = _TABLE.match(text, at + len(quoted))
        before = text[max(at - _LINE, 0) : at]
        indent = len(before) - len(before.rstrip(b" "))
        inner = indent >= _INNER and before[: len(before) - indent].endswith(b"\n")
        if table and not inner and table.end() + 1 != place:
            return False
        at = text.find(quoted, at + len(quoted))
    return True


def _quoted(word: str) -> bytes:
    return json.dumps(word, ensure_ascii=False).encode("utf-8", "backslashreplace")


def _key(text: mmap.mmap, at: int) -> tuple[str, int]:
    """Return the key of the line at `at`, and where its table's first line begins."""
    line = _KEY_LINE.match(text, at)
    if line is None:
        raise ValueError("not a line that begins a template")
    return parse_json(line[1]), line.end()
