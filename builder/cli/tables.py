"""Tables as lines of text, shortened, wrapped or laid out as paragraphs to fit a width. Pure."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence

_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
# Commands take the beginning of a digest or of a build ID in place of the whole ref.
_REF = re.compile(
    r"(?:local:[\w.-]+@)?sha256[:-](?P<digest>[0-9a-f]{12})(?:[0-9a-f]{52})?\b"
    rf"|[a-z0-9]{{20}}:(?P<build>{_UUID})"
)
_EMAIL = re.compile(r"(?<=\S) <[^<>\s]+@[^<>\s]+>")
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)T\d\d:\d\d:\d\dZ")
_GAP = "  "
_LEAST_WRAPPED = 24  # narrower columns of text are hard to read

Row = Sequence[str]


def lines_of(headings: Row, rows: Sequence[Row], width: int | None) -> Iterator[str]:
    """Yield a table as lines, of at most `width` columns unless that is None.

    No word is broken. Where the table is too wide, refs, digests and people are shortened, then
    times, then text is wrapped; at last each row becomes a paragraph.
    """
    cells = table = [headings, *rows]
    widths = _widths(cells)
    if width is None:
        yield from _aligned(cells, widths)
        return
    for shorten in (_short_refs, _short_times):
        if _total(widths) > width:
            cells = [[shorten(cell) for cell in row] for row in table]
            widths = _widths(cells)
    least = [_least(column) for column in zip(*cells, strict=True)]
    if _total(least) > width:
        yield from _paragraphs([[_short_refs(cell) for cell in row] for row in table], width)
        return
    while _total(widths) > width:
        shrinking = [i for i, needed in enumerate(least) if widths[i] > needed]
        widths[max(shrinking, key=lambda i: widths[i])] -= 1
    yield from _aligned([cells[0], ["─" * width for width in widths], *cells[1:]], widths)


def _short_refs(text: str) -> str:
    return _EMAIL.sub("", _REF.sub(lambda ref: ref["digest"] or ref["build"][:8], text))


def _short_times(text: str) -> str:
    return _TIME.sub(r"\1", _short_refs(text))


def _widths(table: Sequence[Row]) -> list[int]:
    return [max(map(len, column)) for column in zip(*table, strict=True)]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _least(column: Row) -> int:
    """Return the width below which a word would be broken or text would become hard to read."""
    word = max(len(word) for cell in column for word in cell.split() or [""])
    return max(word, min(max(map(len, column)), _LEAST_WRAPPED))


def _aligned(rows: Sequence[Row], widths: Sequence[int]) -> Iterator[str]:
    for row in rows:
        wrapped = [_wrap(cell, width) for cell, width in zip(row, widths, strict=True)]
        for number in range(max(map(len, wrapped))):
            parts = [lines[number] if number < len(lines) else "" for lines in wrapped]
            padded = (part.ljust(width) for part, width in zip(parts, widths, strict=True))
            yield _GAP.join(padded).rstrip()


def _paragraphs(table: Sequence[Row], width: int) -> Iterator[str]:
    headings = table[0]
    for first, *rest in table[1:]:
        if first:
            yield first
        line = ""
        for heading, cell in zip(headings[1:], rest, strict=True):
            if cell in ("", "-"):
                continue
            pair = f"{heading}: {cell}" if first and heading else cell
            if line and len(f"{_GAP}{line}, {pair}") > width:
                yield from _wrap(f"{_GAP}{line},", width)
                line = ""
            line = f"{line}, {pair}" if line else pair
        yield from _wrap(f"{_GAP}{line}", width)


def _wrap(text: str, width: int) -> list[str]:
    if len(text) <= width:
        return [text]
    return textwrap.wrap(
        text, width, subsequent_indent=" " * (len(text) - len(text.lstrip())),
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
