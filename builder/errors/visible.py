r"""Make text from others safe for a terminal and a line of a log.

A control character can move the cursor, clear the screen or forge a line; a bidirectional mark
reverses the text around it. Both become escapes such as `\x1b` and `\u202e`.
"""

from __future__ import annotations

import re

if False:  # for type checkers; importing typing costs as much as all the rest
    from typing import Any

# Control characters, line and paragraph separators, bidirectional marks, lone surrogates, the
# byte order mark, and the invisible characters that spell ASCII (tags).
HIDDEN = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff"
    "\U000e0000-\U000e007f"
)
_IN_TEXT = re.compile(f"[{HIDDEN}]")
_IN_LINE = re.compile(f"[\t\n{HIDDEN}]")
_NAMED = {"\t": "\\t", "\n": "\\n", "\r": "\\r"}


def visible(text: str) -> str:
    """Return `text` with hidden characters as escapes; line breaks and tabs stay."""
    return _IN_TEXT.sub(_escape, text)


def one_line(text: str) -> str:
    """Return `text` with hidden characters, line breaks and tabs as escapes."""
    return _IN_LINE.sub(_escape, text)


def _escape(match: Any) -> str:
    character: str = match[0]
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is not UTF-8
        code -= 0xDC00
    if code < 0x100:
        return _NAMED.get(character, f"\\x{code:02x}")
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
