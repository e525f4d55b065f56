"""The lines of a text as a terminal shows them: progress bars overwrite themselves."""

from __future__ import annotations

import re

_CONTROL = re.compile(
    r"\x1b\[([0-9;?]*)([@-~])"  # cursor moves, erasure and colours
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?"  # titles and links
    r"|\x1b."
    r"|[\n\r\b\x07]"
)
# A terminal ends where its window does.
_COLUMNS = 500


def shown_lines(text: str) -> list[str]:
    """Return the lines of `text` after its moves, erasures and overwrites, without colours."""
    if not _CONTROL.search(text.replace("\n", "")):
        return text.removesuffix("\n").split("\n") if text else []
    screen, position = _Screen(), 0
    for control in _CONTROL.finditer(text):
        screen.write(text[position : control.start()])
        screen.move(control)
        position = control.end()
    screen.write(text[position:])
    lines = ["".join(line).rstrip() for line in screen.lines]
    return lines[: max((number for number, line in enumerate(lines, 1) if line), default=0)]


class _Screen:
    def __init__(self) -> None:
        self.lines: list[list[str]] = [[]]
        self._row = self._column = 0

    def write(self, text: str) -> None:
        if not text:
            return
        line, end = self.lines[self._row], self._column + len(text)
        line.extend(" " * (self._column - len(line)))
        line[self._column : end] = text
        self._column = end

    def move(self, control: re.Match[str]) -> None:
        """Apply a control character or sequence; ignore those without effect here."""
        if control[0] == "\n":
            self._row, self._column = self._row + 1, 0
            if self._row == len(self.lines):
                self.lines.append([])
        elif control[0] == "\r":
            self._column = 0
        elif control[0] == "\b":
            self._column = max(self._column - 1, 0)
        elif control[2]:
            first = control[1].partition(";")[0]
            self._sequence(control[2], int(first) if first.isdecimal() else None)

    def _sequence(self, name: str, number: int | None) -> None:
        steps = number or 1
        if name in "AF":
            self._row = max(self._row - steps, 0)
        elif name in "BE":
            self._row = min(self._row + steps, len(self.lines) - 1)
        elif name in "CDG":
            start = {"C": self._column, "D": self._column, "G": -1}[name]
            column = start - steps if name == "D" else start + steps
            # Back over all that was written, but forward no further than the width of a window.
            self._column = max(min(column, max(self._column, _COLUMNS)), 0)
        elif name == "K":
            self._erase_in_line(number or 0)
        elif name == "J":
            self._erase_in_screen(number or 0)
        if name in "EF":
            self._column = 0

    def _erase_in_line(self, part: int) -> None:
        line = self.lines[self._row]
        if part == 0:
            del line[self._column :]
        else:
            end = len(line) if part == 2 else min(self._column + 1, len(line))
            line[:end] = " " * end

    def _erase_in_screen(self, part: int) -> None:
        if part > 1:
            self.lines, self._row, self._column = [[]], 0, 0
            return
        self._erase_in_line(part)
        if part == 0:
            del self.lines[self._row + 1 :]
        else:
            self.lines[: self._row] = [[] for _ in range(self._row)]
