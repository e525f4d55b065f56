"""The output of code: text through descriptors 1 and 2, and results in messages.

The descriptors are named pipes that the application reads. Only messages that it uses are sent, cut
to what it keeps.
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
_own: dict[str, io.TextIOBase] = {}  # the streams of the descriptors, by name


class _Descriptor(io.FileIO):
    """An unbuffered standard stream, in order with the output of processes and C libraries."""

    def write(self, data: Any) -> int:
        """Write all of `data`, even if a signal cuts a write short."""
        size = written = super().write(data)
        rest = memoryview(data).cast("B")[size:]
        while rest:
            size = super().write(rest)
            written, rest = written + size, rest[size:]
        return written

    def seekable(self) -> bool:
        """Return False, whatever the descriptor is while this is created."""
        return False

    def close(self) -> None:
        """Stay open: code that closes its output must not close that of later executions."""


class _Text(io.TextIOWrapper):
    def close(self) -> None:
        """Stay open, for the same reason."""

    def detach(self) -> Any:
        """Return the binary stream, and stay usable."""
        return self.buffer


def open_text_streams() -> None:
    """Make `sys.stdout` and `sys.stderr` write to the descriptors unbuffered, as UTF-8.

    Call it before importing anything that may keep them.
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
    """Restore `sys.stdout` and `sys.stderr` if the code has replaced them by something that the
    kernel cannot flush: a closed stream, None, or an object without `flush`."""
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
    """Use streams that the kernel can flush for the `with` block; the code keeps its own."""
    chosen = {name: getattr(sys, name) for _, name in _STREAMS if hasattr(sys, name)}
    restore_streams()
    try:
        yield
    finally:
        for name, stream in chosen.items():
            setattr(sys, name, stream)


def connect_streams(folder: str, log: logging.Logger) -> None:
    """Connect descriptors 1 and 2 to the application, which waits for a first byte; `log` keeps
    their previous target."""
    before = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace")
    for handler in log.handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(before)
    for number, name in _STREAMS:
        pipe = os.open(f"{folder}/{name}", os.O_WRONLY)
        os.dup2(pipe, number)
        os.close(pipe)
    os.write(1, b"\0")


class Messages:
    """Replaces a session's `send`. `limit` is that of the running execution, in characters, and
    `request` the ID of its request."""

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
            fields = {name: options.get(name) for name in ("header", "metadata")}
            message = self._session.msg(message, content=content, parent=parent, **fields)
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
        """Mark in both streams where they are cleared; None if an earlier execution clears them in
        the background."""
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
            # Of a front end's actions, only whether it would end the kernel matters.
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
        """Cut a text from its middle; return it and how many characters are missing."""
        over = 0 if self.limit is None else max(len(text) - self.limit, 0)
        first = (len(text) - over + 1) // 2
        return (text[:first] + text[first + over :], over) if over else (text, 0)
