"""What running code in a sandbox gives."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WARM_SECONDS = 600.0
_RESULTS_TO_A_STREAM = 16
_RESULT_OVERHEAD = 64  # so that results of nothing come to an end, too


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One rich result: `data` is a MIME bundle (MIME type → text; pictures in base64). `is_main`
    tells the value of the last expression from what was displayed on the way."""

    data: Mapping[str, Any]
    is_main: bool = False

    @property
    def text(self) -> str | None:
        """The plain text of it."""
        return self._text("text/plain")

    @property
    def html(self) -> str | None:
        """The HTML of it, of a table for example."""
        return self._text("text/html")

    @property
    def png(self) -> str | None:
        """The picture of it, of a chart for example, as a PNG in base64."""
        return self._text("image/png")

    def _text(self, kind: str) -> str | None:
        value = self.data.get(kind)
        return value if isinstance(value, str) else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Execution:
    """What running code gave; `traceback` is plain text.

    `left_out` is how many characters of output and results were beyond the limit, `lost` says that
    the interpreter, and all that was defined in it, went with a time-out.
    """

    stdout: str = ""
    stderr: str = ""
    results: tuple[Result, ...] = ()
    error: str | None = None
    traceback: str = ""
    timed_out: bool = False
    lost: bool = False
    left_out: int = 0
    seconds: float = 0.0


class Output:
    """Collects what an execution gives, up to `limit` characters of each stream, of an error and of
    a result's text; pictures and the like may be sixteen times as much together.

    Of what is longer the beginning and the end are kept.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self._streams = {name: Cut(limit) for name in ("stdout", "stderr")}
        self._left_out = 0
        self._all_room = float("inf") if limit is None else float(_RESULTS_TO_A_STREAM * limit)
        self.room = self._all_room
        self._shown: list[_Shown] = []
        self._error: str | None = None
        self._traceback = ""
        # What was given before the clearing with the number `_cleared` is gone. Each channel tells
        # of all clearings, and each at another moment.
        self._cleared = 0
        self._clearings = dict.fromkeys(("stdout", "stderr", "results"), 0)

    def stream(self, name: str, text: str) -> None:
        """Take what was written to "stdout" or "stderr"."""
        if text and name in self._streams and self._counts(name):
            self._streams[name].add(text)

    def result(
        self,
        data: Mapping[str, Any],
        *,
        main: bool,
        display_id: str | None = None,
        update: bool = False,
    ) -> None:
        """Take a MIME bundle of texts and `Cut`s; of one that is too large, a line that says so.

        It also takes the place of what was displayed with the same ID before; an `update` of
        nothing is a result of its own.
        """
        if not self._counts("results"):
            return
        replaced = False
        for number, shown in enumerate(self._shown):
            if display_id is not None and shown.display_id == display_id:
                self.room += shown.size
                self._shown[number] = self._fitted(data, shown.is_main, display_id)
                replaced = True
        if not (update and replaced):
            self._shown.append(self._fitted(data, main, display_id))

    def clear(self, channel: str, number: int, *, wait: bool) -> None:
        """Take that the output was cleared, for the `number`th time, from "stdout", "stderr" or
        "results": at once, or with `wait` when there is more."""
        self._clearings[channel] = number
        if not wait:
            self._clear(number)

    def leave_out(self, size: int) -> None:
        """Count characters that were too many to be taken."""
        self._left_out += size

    def failed(self, name: str | Cut, value: str | Cut, traceback: str | Cut) -> None:
        """Take the error that has ended the code."""
        if isinstance(value, Cut):
            error = value
            self._error = plain(f"{name}: {value}")
        else:
            error = self._cut(plain(f"{name}: {value}"))
            self._error = error.text()
        trace = self._cut(traceback)
        self._traceback = plain(trace.text())
        self._left_out += error.left_out + trace.left_out

    def _cut(self, text: str | Cut) -> Cut:
        if isinstance(text, Cut):
            return text
        cut = Cut(self.limit)
        cut.add(text)
        return cut

    def _fitted(self, data: Mapping[str, Any], main: bool, display_id: str | None) -> _Shown:
        """As much of a MIME bundle as there is room for."""
        kept: dict[str, Any] = {}
        room, left_out = self.room, 0
        for kind, value in data.items():
            text = value if isinstance(value, str | Cut) else json.dumps(value, default=str)
            size = text.size if isinstance(text, Cut) else len(text)
            if kind == "text/plain":
                cut = self._cut(text)
                kept[kind] = cut.text()
                left_out += cut.left_out
            elif self.room < size:
                left_out += size
                kept.setdefault("text/plain", f"… {kind} of {size} characters left out …")
            else:
                self.room -= size
                kept[kind] = value.text() if isinstance(value, Cut) else value
        self.room -= len(kept.get("text/plain", "")) + _RESULT_OVERHEAD
        result: Result | None = Result(data=kept, is_main=main)
        if self.room < 0:
            left_out += sum(len(str(value)) for value in kept.values())
            result = None
        return _Shown(
            result=result,
            is_main=main,
            display_id=display_id,
            size=room - self.room,
            left_out=left_out,
        )

    def _counts(self, channel: str) -> bool:
        """Whether what a channel gives now was not cleared on another one. What was given before a
        clearing that has waited for this goes."""
        self._clear(self._clearings[channel])
        return self._clearings[channel] == self._cleared

    def _clear(self, number: int) -> None:
        if number > self._cleared:
            self._cleared, self.room = number, self._all_room
            self._streams = {name: Cut(self.limit) for name in self._streams}
            self._shown.clear()

    @property
    def failed_already(self) -> bool:
        """Whether an error was taken."""
        return self._error is not None

    def execution(
        self, seconds: float, *, timed_out: bool = False, lost: bool = False
    ) -> Execution:
        """All that was taken."""
        parts: list[Cut | _Shown] = [*self._streams.values(), *self._shown]
        return Execution(
            stdout=self._streams["stdout"].text(),
            stderr=self._streams["stderr"].text(),
            results=tuple(shown.result for shown in self._shown if shown.result),
            error=self._error,
            traceback=self._traceback,
            timed_out=timed_out,
            lost=lost,
            left_out=self._left_out + sum(part.left_out for part in parts),
            seconds=seconds,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shown:
    """A result, or None where there was no room for it, and what it takes of that."""

    result: Result | None
    is_main: bool
    display_id: str | None
    size: float
    left_out: int


class Cut:
    """Text that arrives in parts; of what is longer than `limit`, the beginning and the end."""

    def __init__(self, limit: float | None) -> None:
        self._limit = None if limit is None or limit == float("inf") else max(0, int(limit))
        self._first: list[str] = []
        self._room = self._limit - self._limit // 2 if self._limit is not None else 0
        self._last: deque[str] = deque()
        self._kept = 0
        self.left_out = self.size = 0

    def add(self, text: str) -> None:
        """Take the next part."""
        self.size += len(text)
        if self._limit is None:
            self._first.append(text)
            return
        if self._room:
            self._first.append(text[: self._room])
        rest = text[self._room :]
        self._room -= len(text) - len(rest)
        if not rest:
            return
        self._last.append(rest)
        self._kept += len(rest)
        while (over := self._kept - self._limit // 2) > 0:
            first = self._last.popleft()
            if len(first) > over:
                self._last.appendleft(first[over:])
            gone = min(over, len(first))
            self._kept -= gone
            self.left_out += gone

    def leave_out(self, size: int) -> None:
        """Count characters that are missing from the middle already."""
        self.left_out += size
        self.size += size

    def __str__(self) -> str:
        return self.text()

    def text(self) -> str:
        """What is kept, with a line that says how much is not."""
        told = f"\n… {self.left_out} characters left out …\n" if self.left_out else ""
        return "".join(self._first) + told + "".join(self._last)


def seconds_in_words(seconds: float) -> str:
    """`1 second`, `1.5 seconds`, `600 seconds`."""
    return f"{seconds:g} second" if seconds == 1 else f"{seconds:g} seconds"


def warm_up_code(modules: Sequence[str]) -> str:
    """Imports `modules`, and leaves no name behind."""
    return (
        f"for _name in {list(modules)!r}: __import__('importlib').import_module(_name)\ndel _name"
    )


def plain(text: str) -> str:
    """Text without the colours of a terminal."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
