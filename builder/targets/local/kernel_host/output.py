"""What code gives: text by descriptors 1 and 2, whoever writes it, and results by messages.

The descriptors are named pipes, which the application reads. Of messages only those are sent that
it reads, and no more of each than it would keep.
"""

import contextlib
import ctypes
import hashlib
import io
import itertools
import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

_STREAMS = ((1, "stdout"), (2, "stderr"))
_HEARD = ("status", "execute_result", "display_data", "update_display_data", "error")
_RESULTS_TO_A_STREAM = 16  # as in builder.sandbox.execution
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_UNBUFFERED = 2  # _IONBF of stdio.h
_own: dict[str, io.TextIOBase] = {}  # by name: the streams that lead to the descriptors


class _Descriptor(io.FileIO):
    """A standard stream without a buffer: in order with what processes and C libraries write."""

    def write(self, data: Any) -> int:
        """Write all of `data`, also where a signal cuts a write short."""
        size = written = super().write(data)
        rest = memoryview(data).cast("B")[size:]
        while rest:
            size = super().write(rest)
            written, rest = written + size, rest[size:]
        return written

    def seekable(self) -> bool:
        """Return False, whatever the descriptor leads to while this is made."""
        return False

    def close(self) -> None:
        """Stay open: code that closes its output must not end that of later executions."""


class _Text(io.TextIOWrapper):
    def close(self) -> None:
        """Stay open, for the same reason."""

    def detach(self) -> Any:
        """Return what to write bytes to, and stay usable."""
        return self.buffer


def open_text_streams() -> None:
    """Have `sys.stdout` and `sys.stderr` write to the descriptors at once, as UTF-8.

    To be called before anything that may keep them is imported.
    """
    for number, name in _STREAMS:
        raw = _Descriptor(number, "w", closefd=False)
        raw.name = f"<{name}>"
        stream = _Text(raw, encoding="utf-8", errors="replace", write_through=True)
        stream.mode = "w"  # type: ignore[misc]
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
        _own[name] = stream
    with contextlib.suppress(OSError, AttributeError, ValueError):
        library = ctypes.CDLL(None)
        for _, name in _STREAMS:
            library.setvbuf(ctypes.c_void_p.in_dll(library, name), None, _UNBUFFERED, 0)


def restore_streams() -> None:
    """Take back `sys.stdout` and `sys.stderr` from what code has put there and the kernel, which
    flushes them, cannot use: what is closed, None, or has no `flush`."""
    for _, name in _STREAMS:
        stream = getattr(sys, name, None)
        try:
            usable = not getattr(stream, "closed", False)
            stream.flush()  # type: ignore[union-attr]
        except BaseException:  # noqa: BLE001 - a class of the code's raises anything
            usable = False
        if not usable:
            setattr(sys, name, _own[name])


@contextlib.contextmanager
def usable_streams() -> Iterator[None]:
    """Have streams that the kernel can use for the `with` block; code keeps those it has chosen."""
    chosen = {name: getattr(sys, name) for _, name in _STREAMS if hasattr(sys, name)}
    restore_streams()
    try:
        yield
    finally:
        for name, stream in chosen.items():
            setattr(sys, name, stream)


def connect_streams(folder: str, log: logging.Logger) -> None:
    """Lead descriptors 1 and 2 to the application; `log` goes on where they have led before."""
    before = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace")
    for handler in log.handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(before)
    for number, name in _STREAMS:
        pipe = os.open(f"{folder}/{name}", os.O_WRONLY)
        os.dup2(pipe, number)
        os.close(pipe)


class Messages:
    """Takes the place of a session's `send`. `limit` is that of the running execution, in
    characters, and `request` the ID of its request."""

    def __init__(self, session: Any) -> None:
        self.limit: int | None = None
        self.request: str | None = None
        self._session, self._send = session, session.send
        self._key = hashlib.sha256(session.key).hexdigest()
        self._clearings = itertools.count(1)
        session.send = self.send

    def send(
        self,
        stream: Any,
        message: Any,
        content: Any = None,
        parent: Any = None,
        ident: Any = None,
        **options: Any,
    ) -> Any:
        """Send a message, or its type and content, as `Session.send` does."""
        if isinstance(message, str):
            given = {name: options.get(name) for name in ("header", "metadata")}
            message = self._session.msg(message, content=content, parent=parent, **given)
        kind, content = message["header"]["msg_type"], message["content"]
        if kind == "clear_output":
            content = self._cleared(message)
        elif kind in ("execute_result", "display_data", "update_display_data"):
            content = self._result(content)
        elif kind in ("error", "execute_reply"):
            content = self._outcome(content)
        elif kind not in _HEARD and not kind.endswith("_reply"):
            content = None
        if content is None:
            return message
        return self._send(stream, message | {"content": content}, ident=ident)

    def _cleared(self, message: Any) -> Any:
        """Mark in both streams where they are cleared; None for what an earlier execution clears
        in the background."""
        if message["parent_header"].get("msg_id") != self.request:
            return None
        number, wait = next(self._clearings), bool(message["content"].get("wait"))
        for descriptor, _ in _STREAMS:
            os.write(descriptor, b"\0clear %s %d %d\0" % (self._key.encode(), number, wait))
        return {"number": number, "wait": wait}

    def _result(self, content: Any) -> Any:
        data, left_out = {}, {}
        for kind, value in content["data"].items():
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            if kind == "text/plain":
                data[kind], left_out[kind] = self._cut(text)
            elif self.limit is not None and len(text) > _RESULTS_TO_A_STREAM * self.limit:
                data[kind], left_out[kind] = "", len(text)
            else:
                data[kind] = value
        shown = (content.get("transient") or {}).get("display_id")
        return {"data": data, "left_out": left_out, "transient": {"display_id": shown}}

    def _outcome(self, content: Any) -> Any:
        if "ename" not in content:
            # Of what a front end would do, whether it would end the kernel is of interest.
            payload = [{"source": entry.get("source")} for entry in content.get("payload", ())]
            return content | {"payload": payload}
        name, _ = self._cut(_COLOUR.sub("", str(content["ename"])))
        value, over_value = self._cut(_COLOUR.sub("", str(content["evalue"])))
        traceback = "\n".join(map(str, content.get("traceback") or ()))
        traceback, over_traceback = self._cut(_COLOUR.sub("", traceback))
        return {
            "status": "error",
            "ename": name,
            "evalue": value,
            "traceback": [traceback],
            "left_out": {
                "evalue": over_value + getattr(content["evalue"], "left_out", 0),
                "traceback": over_traceback,
            },
        }

    def _cut(self, text: str) -> tuple[str, int]:
        """The beginning and the end of a text, and how many characters are missing between them."""
        over = 0 if self.limit is None else max(len(text) - self.limit, 0)
        first = (len(text) - over + 1) // 2
        return (text[:first] + text[first + over :], over) if over else (text, 0)
