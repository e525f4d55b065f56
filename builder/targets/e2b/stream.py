"""Read the code service's response to an execution: lines of JSON, one event each.

Unlike the SDK, this notices a killed interpreter and limits the output. A line of any length takes
bounded memory: its strings are cut as they arrive.
"""

from __future__ import annotations

import codecs
import json
import re
import uuid
from collections.abc import AsyncIterable, Iterator
from typing import Any

from builder.errors import InterpreterDiedError, SandboxGoneError
from builder.sandbox.execution import Cut, Output
from builder.system.documents import parse_json

_MIME = {
    "text": "text/plain", "html": "text/html", "markdown": "text/markdown", "svg": "image/svg+xml",
    "png": "image/png", "jpeg": "image/jpeg", "pdf": "application/pdf", "latex": "text/latex",
    "json": "application/json", "javascript": "application/javascript",
    "data": "e2b/data", "chart": "e2b/chart",
}  # fmt: skip
# Errors of the service itself, without a traceback: the interpreter is gone.
_DIED = ("ContextRestarting", "WebSocketError", "UnexpectedEndOfExecution")
_LONG_LINE = 1 << 20
_SHORT_STRING = 1 << 12
_ESCAPE_LENGTH = 6


async def read(parts: AsyncIterable[bytes], output: Output, *, magic: str = "") -> None:
    """Read the response to an execution into `output`.

    Raises `InterpreterDiedError`, `SandboxGoneError` if the interpreter does not know the cell
    `magic` that the code began with, and `ValueError` for a malformed response.
    """
    lines = _Lines(output)
    async for part in parts:
        for event in lines.feed(part):
            kind = event.get("type")
            if kind == "end_of_execution":
                return
            _take(kind, event, output, magic)
    raise ValueError("the code service closed the connection")


def _take(kind: Any, event: dict[str, Any], output: Output, magic: str) -> None:
    """Add an event to the output. The service omits keys without a value."""
    if kind in ("stdout", "stderr"):
        output.stream(kind, event.get("text") or "")
    elif kind == "result":
        data = {_MIME[key]: value for key, value in event.items() if key in _MIME and value}
        output.result(data | (event.get("extra") or {}), main=bool(event.get("is_main_result")))
    elif kind == "error":
        name, value, traceback = (event.get(key) or "" for key in ("name", "value", "traceback"))
        if magic and name == "UsageError" and magic in str(value):
            raise SandboxGoneError("its interpreter died and was replaced by another")
        if name in _DIED and not traceback:
            raise InterpreterDiedError("the interpreter died while it ran the code")
        output.failed(name or "Error", value, traceback)
    elif kind == "unexpected_end_of_execution":
        raise InterpreterDiedError("the interpreter died while it ran the code")


class _Lines:
    """Splits the parts of a response into events."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._line = bytearray()
        self._long: _LongLine | None = None

    def feed(self, part: bytes) -> Iterator[dict[str, Any]]:
        *ends, rest = part.split(b"\n")
        for end in ends:
            self._add(end)
            long, self._long = self._long, None
            line, self._line = bytes(self._line), bytearray()
            if long:
                yield long.event()
            elif line.strip():
                yield parse_json(line)
        self._add(rest)

    def _add(self, part: bytes) -> None:
        if not self._long:
            self._line += part
            if len(self._line) <= _LONG_LINE:
                return
            self._long, part = _LongLine(self._output), bytes(self._line)
            self._line.clear()
        self._long.feed(part)


class _LongLine:
    """An event whose strings are cut as they arrive; printed text is passed on at once."""

    _PRINTED = re.compile(r'\{\s*"type":\s*"(stdout|stderr)",\s*"text":\s*')
    _OF_TEXT = re.compile(r'"(?:text|name|value|traceback)":\s*$')
    _INSIDE = re.compile(r'(?:[^"\\]++|\\(?:u[0-9a-fA-F]{4}|[^u]))*+')

    def __init__(self, output: Output) -> None:
        self._output = output
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = self._half = ""
        self._outside, self._size = [""], 0
        self._printed: str | None = None
        self._string: Cut | None = None
        self._strings: dict[str, Cut] = {}
        self._mark = uuid.uuid4().hex

    def feed(self, part: bytes) -> None:
        text, position = self._rest + self._decoder.decode(part), 0
        while position < len(text):
            if self._string is None:
                before, quote, _ = text[position:].partition('"')
                self._keep(before)
                position += len(before) + len(quote)
                if quote:
                    self._begin()
                continue
            inside = self._INSIDE.match(text, position)
            end = inside.end() if inside else position
            self._add(self._string, json.loads(f'"{text[position:end]}"', strict=False))
            position = end
            if text.startswith('"', position):
                self._end(self._string)
                position += 1
            elif len(text) - position >= _ESCAPE_LENGTH:
                raise ValueError("it contains invalid JSON")
            else:
                break
        self._rest = text[position:]

    def event(self) -> dict[str, Any]:
        """Return the complete event."""
        if self._size > self._bound:
            self._output.leave_out(self._size)
            return {"type": "left out"}
        event = parse_json("".join(self._outside))
        return {
            key: self._restored(value, levels=1 if key == "extra" else 0)
            for key, value in event.items()
        }

    @property
    def _bound(self) -> float:
        return _LONG_LINE + self._output.room

    def _keep(self, text: str) -> None:
        self._size += len(text)
        if self._size <= self._bound:
            self._outside.append(text)

    def _begin(self) -> None:
        printed = self._PRINTED.fullmatch("".join(self._outside)) if self._size < 64 else None
        self._printed = printed[1] if printed else None
        of_text = self._OF_TEXT.search("".join(self._outside[-2:]))
        self._string = Cut(self._output.limit if of_text else self._output.room)

    def _add(self, string: Cut, text: str) -> None:
        text = self._half + text
        # The low surrogate is in the next part.
        self._half = text[-1] if "\ud800" <= text[-1:] <= "\udbff" else ""
        self._pass_on(string, whole(text[: len(text) - len(self._half)]))

    def _pass_on(self, string: Cut, text: str) -> None:
        if self._printed:
            self._output.stream(self._printed, text)
        else:
            string.add(text)

    def _end(self, string: Cut) -> None:
        self._pass_on(string, whole(self._half))
        self._string, self._half = None, ""
        if string.size <= _SHORT_STRING:
            self._keep(json.dumps(string.text()))
        else:
            mark = f"{self._mark} {len(self._strings)}"
            self._strings[mark] = string
            self._keep(f'"{mark}"')

    def _restored(self, value: Any, levels: int = -1) -> Any:
        """Return `value` with its long strings: as `Cut`s down to `levels`, as in MIME bundles."""
        if isinstance(value, dict):
            return {
                self._restored(key): self._restored(inner, levels - 1)
                for key, inner in value.items()
            }
        if isinstance(value, list):
            return [self._restored(inner) for inner in value]
        string = self._strings.get(value) if isinstance(value, str) else None
        return value if string is None else string if levels >= 0 else string.text()


def whole(text: str) -> str:
    """Return `text` without lone surrogates, which cannot be encoded."""
    if text.isascii():
        return text
    joined = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    return joined.encode("utf-8", "replace").decode()
