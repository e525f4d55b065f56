"""The outcome of running code in a sandbox."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WARM_SECONDS = 600.0
_RESULTS_TO_A_STREAM = 16
_RESULT_OVERHEAD = 64  # so that even empty results reach the limit


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One rich result: `data` is a MIME bundle (MIME type → text; images in base64). `is_main`
    marks the value of the last expression; other results were displayed."""

    data: Mapping[str, Any]
    is_main: bool = False

    @property
    def text(self) -> str | None:
        """The plain text."""
        return self._text("text/plain")

    @property
    def html(self) -> str | None:
        """The HTML, for example of a table."""
        return self._text("text/html")

    @property
    def png(self) -> str | None:
        """The PNG image in base64, for example of a chart."""
        return self._text("image/png")

    def _text(self, kind: str) -> str | None:
        value = self.data.get(kind)
        return value if isinstance(value, str) else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Execution:
    """The outcome of running code; `traceback` is plain text.

    `left_out` counts the characters of output and results beyond the limit. `lost` means that the
    interpreter has ended, and with it everything that was defined. `notes` say which limit of the
    sandbox the code has met.
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
    notes: tuple[str, ...] = ()


class Output:
    """Collects the output of an execution.

    Each stream, error and text result is cut to `limit` characters, from its middle. Other results
    may have sixteen times as many in total.
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
        # Output from before clearing number `_cleared` is gone. Every channel reports every
        # clearing, each at its own time.
        self._cleared = 0
        self._clearings = dict.fromkeys(("stdout", "stderr", "results"), 0)

    def stream(self, name: str, text: str) -> None:
        """Add text written to "stdout" or "stderr"."""
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
        """Add a MIME bundle of texts and `Cut`s, or a line saying that it is too large.

        It replaces what was displayed with the same ID; an `update` without such a display is a
        new result.
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
        """Clear the output for the `number`th time, as "stdout", "stderr" or "results" reports: at
        once, or with `wait` when more output arrives."""
        self._clearings[channel] = number
        if not wait:
            self._clear(number)

    def leave_out(self, size: int) -> None:
        """Count characters that were not kept."""
        self._left_out += size

    def failed(self, name: str | Cut, value: str | Cut, traceback: str | Cut) -> None:
        """Record the error that ended the code."""
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
        """Cut a MIME bundle to the room that is left."""
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
        """Return whether new output of a channel counts: no other channel has cleared it already.
        Apply a clearing that has waited for this output."""
        self._clear(self._clearings[channel])
        return self._clearings[channel] == self._cleared

    def _clear(self, number: int) -> None:
        if number > self._cleared:
            self._cleared, self.room = number, self._all_room
            self._streams = {name: Cut(self.limit) for name in self._streams}
            self._shown.clear()

    @property
    def failed_already(self) -> bool:
        """Whether an error was recorded."""
        return self._error is not None

    def execution(
        self, seconds: float, *, timed_out: bool = False, lost: bool = False
    ) -> Execution:
        """Return everything collected."""
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
    """A result, None if it did not fit, and the room that it takes."""

    result: Result | None
    is_main: bool
    display_id: str | None
    size: float
    left_out: int


class Cut:
    """Text that arrives in parts, cut from its middle to `limit` characters."""

    def __init__(self, limit: float | None) -> None:
        self._limit = None if limit is None or limit == float("inf") else max(0, int(limit))
        self._first: list[str] = []
        self._room = self._limit - self._limit // 2 if self._limit is not None else 0
        self._last: deque[str] = deque()
        self._kept = 0
        self.left_out = self.size = 0

    def add(self, text: str) -> None:
        """Add the next part."""
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
        """Count characters already missing from the middle."""
        self.left_out += size
        self.size += size

    def __str__(self) -> str:
        return self.text()

    def text(self) -> str:
        """Return the kept text, with a line saying how much is missing."""
        gap = f"\n… {self.left_out:,} characters left out …\n" if self.left_out else ""
        return "".join(self._first) + gap + "".join(self._last)


def seconds_in_words(seconds: float) -> str:
    """Return `1 second`, `1.5 seconds`, `600 seconds`."""
    return f"{seconds:g} second" if seconds == 1 else f"{seconds:g} seconds"


def warm_up_code(modules: Sequence[str]) -> str:
    """Return code that imports `modules` and leaves no name behind."""
    return (
        f"for _name in {list(modules)!r}: __import__('importlib').import_module(_name)\ndel _name"
    )


def plain(text: str) -> str:
    """Remove terminal colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
