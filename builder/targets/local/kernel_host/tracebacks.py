"""Errors as text: quick to make and of bounded size, whatever was raised."""

from __future__ import annotations

import itertools
import linecache
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

_FIRST_FRAMES, _LAST_FRAMES = 10, 30
_LINE = 500
_TEXT = 1_000_000
_EXCEPTIONS_OF_A_GROUP = 1000
# Frames of what runs the code are left out.
_RUNNERS = ("IPython", "ipykernel", __package__)


def message_of(error: BaseException) -> tuple[str, bool]:
    """Return the message of an error, and whether it is what `str` gives."""
    try:
        text = str(error)
    except BaseException as failure:  # noqa: BLE001 - the code's `__str__` may raise anything
        return f"<its message cannot be made: {type(failure).__name__}>", False
    short = _shortened(text)
    return short, not isinstance(short, _Shortened)


def rendered(
    error: BaseException, message: tuple[str, bool], name_of: Callable[[str], str]
) -> list[str]:
    """Return the lines of an error's traceback, with its causes and the members of groups.
    `message` is that of `message_of`; `name_of` gives what a file is called."""
    shown, whole = message
    text = ""
    if whole:
        try:
            text = "".join(_formatted(error, name_of))
        except BaseException:  # noqa: BLE001 - as above, of a cause or member
            text = ""
    if not text:
        frames = "".join(_Frames(error.__traceback__, name_of).format())
        text = f"{_HEADER}{frames}{type(error).__name__}: {shown}\n"
    return _cut(text).splitlines()


_HEADER = "Traceback (most recent call last):\n"


def _formatted(error: BaseException, name_of: Callable[[str], str]) -> Iterator[str]:
    groups: dict[str, Any] = {}
    if sys.version_info >= (3, 11):
        groups = {
            "max_group_width": _EXCEPTIONS_OF_A_GROUP,
            "max_group_depth": _EXCEPTIONS_OF_A_GROUP,
        }
    formatted = traceback.TracebackException(
        type(error), error, error.__traceback__, limit=0, lookup_lines=False, **groups
    )
    left: list[tuple[Any, BaseException | None]] = [(formatted, error)]
    while left:
        part, raised = left.pop()
        if part is None or raised is None:
            continue
        if part.stack is not None:
            part.stack = _Frames(raised.__traceback__, name_of)
        left += [(part.__cause__, raised.__cause__), (part.__context__, raised.__context__)]
        left += zip(getattr(part, "exceptions", None) or (), getattr(raised, "exceptions", ()))
    return formatted.format()


class _Frames:
    """The frames of one traceback, the first and the last of many."""

    def __init__(self, tb: TracebackType | None, name_of: Callable[[str], str]) -> None:
        frames = itertools.dropwhile(
            lambda position: _of_a_runner(position[0].f_globals), traceback.walk_tb(tb)
        )
        self._name_of = name_of
        self._first = [_place(position) for position in itertools.islice(frames, _FIRST_FRAMES)]
        self._last: deque[tuple[str, int, str]] = deque(maxlen=_LAST_FRAMES)
        self._left_out = -_LAST_FRAMES
        for position in frames:
            self._last.append(_place(position))
            self._left_out += 1

    def __bool__(self) -> bool:
        return bool(self._first)

    def format(self, **_options: Any) -> list[str]:
        """Return them as the standard library's own would."""
        lines = [self._line(*place) for place in self._first]
        if self._left_out > 0:
            lines.append(f"  … {self._left_out} frames left out …\n")
        return lines + [self._line(*place) for place in self._last]

    def _line(self, file: str, number: int, function: str) -> str:
        place = f'File "{file}"' if self._name_of(file) == file else self._name_of(file)
        inside = "" if function.startswith("<cell line:") or function == "<module>" else function
        line = f"  {place}, line {number}" + (f", in {inside}" if inside else "") + "\n"
        source = linecache.getline(file, number).strip()
        if len(source) > _LINE:
            source = f"{source[:_LINE]} …"
        return f"{line}    {source}\n" if source else line


def _of_a_runner(names: dict[str, Any]) -> bool:
    return str(names.get("__name__")).partition(".")[0] in _RUNNERS


def _place(position: tuple[Any, int]) -> tuple[str, int, str]:
    frame, number = position
    return frame.f_code.co_filename, number or frame.f_lineno, frame.f_code.co_name


class _Shortened(str):
    """The beginning and the end of a text; `left_out` characters are missing between them."""

    __slots__ = ("left_out",)
    left_out: int

    def __str__(self) -> str:
        return self


def _shortened(text: str) -> str:
    if len(text) <= _TEXT:
        return text
    half = _TEXT // 2
    short = _Shortened(text[:half] + text[-half:])
    short.left_out = len(text) - len(short)
    return short


def _cut(text: str) -> str:
    short = _shortened(text)
    if not isinstance(short, _Shortened):
        return text
    half = _TEXT // 2
    return f"{short[:half]}\n… {short.left_out} characters left out …\n{short[half:]}"
