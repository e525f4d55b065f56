"""The messages between this process and a kernel, and the output of its code.

The only owner of jupyter_client. It neither starts a kernel nor ends one.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import zmq
from jupyter_client.connect import write_connection_file
from jupyter_client.session import Session

from builder.errors import SandboxGoneError
from builder.sandbox.execution import Cut, Output
from builder.targets.local.streams import Streams

_POLL_SECONDS = 0.2
_SUBSCRIPTION_SECONDS = 0.01
# Messages that may wait in this process, each of at most the size that is kept of a result.
_WAITING_MESSAGES = 2


class KernelClient:
    """A client of one kernel. Use it from one thread at a time; `close` it when done.

    Set `check_alive` before the kernel starts: it raises the error for a kernel that has ended.
    """

    check_alive: Callable[[], None]

    def __init__(self, folder: Path) -> None:
        """Write `connection.json`, from which the kernel is started, and make its output pipes in
        `folder`. Raises `OSError`."""
        self.connection_file, key = folder / "connection.json", secrets.token_hex(16).encode()
        # Short names: a path of a socket has at most about 100 characters.
        sockets = folder / "s"
        sockets.mkdir()
        self._ip = str(sockets / "s")
        _, self._ports = write_connection_file(
            str(self.connection_file), transport="ipc", ip=self._ip, key=key
        )
        self._session = Session(key=key)
        self._shell: zmq.Socket[bytes] | None = None
        self._output: zmq.Socket[bytes] | None = None
        self._streams = Streams(folder, key)

    def close(self) -> None:
        """Disconnect. Closing twice is fine."""
        self._streams.close()
        for socket in (self._shell, self._output):
            if socket:
                socket.close(linger=0)

    def wait_until_ready(self, deadline: float) -> bool:
        """Wait until the kernel answers and its output is received; return False when time is up.

        A subscription takes a moment to arrive; messages published before that are lost.
        """
        while not self._streams.connected.wait(_POLL_SECONDS):
            self.check_alive()
            if time.monotonic() > deadline:
                return False
        self._connect()
        while time.monotonic() < deadline:
            try:
                request = self._send("kernel_info_request", {})
            except SandboxGoneError:
                self.check_alive()
                time.sleep(_SUBSCRIPTION_SECONDS)
                continue
            while self.reply(request, _POLL_SECONDS) is None and time.monotonic() < deadline:
                self.check_alive()
            if self.collect(request, Output(), time.monotonic() + _SUBSCRIPTION_SECONDS):
                return True
        return False

    def _connect(self) -> None:
        """Connect to the kernel, whose sockets exist."""
        context = _context(os.getpid())
        self._output = context.socket(zmq.SUB)
        self._output.subscribe(b"")
        self._output.connect(f"ipc://{self._ip}-{self._ports['iopub_port']}")
        self._shell = context.socket(zmq.DEALER)
        self._shell.connect(f"ipc://{self._ip}-{self._ports['shell_port']}")

    def into(self, output: Output) -> contextlib.AbstractContextManager[None]:
        """Add what the code writes to `output`, until the code or the `with` block ends."""
        return self._streams.into(output)

    def written(self) -> int:
        """Return how many bytes the code has written to its streams."""
        return self._streams.written

    def execute(
        self, code: str, *, silent: bool, variables: Mapping[str, str] | None, limit: int | None
    ) -> str:
        """Ask the kernel to run code; return the ID of the request. Raises `SandboxGoneError`."""
        content = {"code": code, "silent": silent, "store_history": not silent}
        content |= {"user_expressions": {}, "allow_stdin": False, "stop_on_error": False}
        metadata = {"variables": dict(variables or {}), "limit": limit}
        return self._send("execute_request", content, metadata)

    def _send(
        self, kind: str, content: dict[str, Any], metadata: dict[str, Any] | None = None
    ) -> str:
        message = self._session.msg(kind, content, metadata=metadata)
        try:
            self._session.send(self._shell, message)
        except zmq.Again:
            text = "the sandbox is gone: its kernel has closed the connection"
            raise SandboxGoneError(text) from None
        request: str = message["header"]["msg_id"]
        return request

    def _received(self, socket: zmq.Socket[bytes] | None, timeout: float) -> dict[str, Any] | None:
        """Return the next message; None if none comes for `timeout` seconds."""
        assert socket
        if not socket.poll(math.ceil(timeout * 1000)):
            return None
        return self._session.recv(socket)[1]

    def reply(self, request: str, timeout: float) -> dict[str, Any] | None:
        """Return the reply to `request`; None if no reply comes for `timeout` seconds."""
        while answer := self._received(self._shell, timeout):
            if answer["parent_header"].get("msg_id") == request:
                content: dict[str, Any] = answer["content"]
                return content
        return None

    def collect(self, request: str, output: Output, deadline: float) -> bool:
        """Add messages to `output` until the kernel is idle; return False when time is up."""
        while (left := deadline - time.monotonic()) > 0:
            message = self._received(self._output, min(left, _POLL_SECONDS))
            if message is None:
                self.check_alive()
                continue
            if message["parent_header"].get("msg_id") != request:
                continue
            if message["msg_type"] == "status":
                if message["content"]["execution_state"] == "idle":
                    self._streams.end()
                    return True
            else:
                with self._streams.lock:
                    _add(output, message["msg_type"], message["content"])
        return False


def _add(output: Output, kind: str, content: Mapping[str, Any]) -> None:
    if kind in ("execute_result", "display_data", "update_display_data"):
        left_out = content["left_out"]
        output.result(
            {
                key: _whole(value, left_out.get(key, 0), output)
                if isinstance(value, str)
                else value
                for key, value in content["data"].items()
            },
            main=kind == "execute_result",
            display_id=content["transient"]["display_id"],
            update=kind == "update_display_data",
        )
    elif kind == "clear_output":
        output.clear("results", content["number"], wait=content["wait"])
    elif kind == "error":
        add_error(output, content)


def add_error(output: Output, content: Mapping[str, Any]) -> None:
    """Add the error of a message or reply."""
    traceback = "\n".join(map(str, content.get("traceback", ())))
    left_out = content.get("left_out", {})
    output.failed(
        _whole(str(content.get("ename")), 0, output),
        _whole(str(content.get("evalue")), left_out.get("evalue", 0), output),
        _whole(traceback, left_out.get("traceback", 0), output),
    )


def _whole(text: str, left_out: int, output: Output) -> str | Cut:
    """Replace halves of characters, which cannot be written anywhere; `left_out` characters are
    missing from the middle of the text."""
    text = text.encode("utf-8", "replace").decode()
    if not left_out:
        return text
    cut = Cut(output.limit)
    cut.add(text)
    cut.leave_out(left_out)
    return cut


@functools.cache
def _context(_process: int) -> zmq.Context[Any]:
    """Return this process's own context: it has a thread, and a forked process has none."""
    context = zmq.Context()
    context.setsockopt(zmq.RCVHWM, _WAITING_MESSAGES)
    # Code may have replaced the kernel's socket by a link to another.
    context.setsockopt(zmq.RECONNECT_IVL, -1)
    # Fail at once if there is no connection: sending would block forever.
    context.setsockopt(zmq.SNDTIMEO, 0)
    return context
