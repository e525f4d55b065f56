"""What a terminal shows of a text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.runtime.terminal import shown_lines

BAR = "".join(f"\r{done:3}%|{'█' * done:<10}|" for done in range(11))


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("a\nb\n", ["a", "b"]),
        ("\n\na\x0cb\u2028c\n\n", ["", "", "a\x0cb\u2028c", ""]),
        ("a\r\nb\r\n", ["a", "b"]),
        (f"{BAR}\ndone\n", [" 10%|██████████|", "done"]),
        ("long text\rshort", ["shorttext"]),
        ("long text\r\x1b[Kshort", ["short"]),
        ("long text\x1b[2K\rshort", ["short"]),
        ("abc\b\b\bx", ["xbc"]),
        ("\x1b[31mred\x1b[0m\r\x1b[1;32mblue\x1b[m\a", ["blue"]),
        ("\x1b]8;;http://a\x1b\\link\x1b]8;;\x07", ["link"]),
        ("outer 0%\n\rinner 50%\x1b[A\router 9%\n\rinner 99%", ["outer 9%", "inner 99%"]),
        ("a\nb\x1b[1A\x1b[2K\x1b[1B\x1b[2Kc", ["", " c"]),
        ("a\nb\x1b[H\x1b[2Jc", ["c"]),
        ("a\nb\nc\x1b[2Fx\x1b[J", ["x"]),
        ("ab\x1b[3Cc\x1b[1Gx\x1b[99Dy", ["yb   c"]),
    ],
)
def test_lines_are_those_of_a_terminal(text: str, lines: list[str]) -> None:
    """What was written over or erased is gone, and so are colours."""
    assert shown_lines(text) == lines


@given(
    st.lists(
        st.sampled_from(["a", "bc", "\n", "\r", "\b", "\x1b", "["])
        | st.builds("\x1b[{}{}".format, st.integers(0, 99999), st.sampled_from("ABCDEFGHJKm"))
    ).map("".join)
)
def test_any_text_has_lines(text: str) -> None:
    """Whatever is written, no line holds a character that moves, and none is wider than it may."""
    for line in shown_lines(text):
        assert not set(line) & set("\n\r\b")
        assert len(line) <= 500 + len(text)
