"""Take over what a sandbox starts, and how it is known to be ready."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence

from builder.convert.draft import Draft
from builder.convert.values import Line
from builder.spec.defaults import COMMAND, READY_URL

_CODE_SERVICE = re.compile(r"/\.jupyter/start-up\.sh\b")
_URL = re.compile(
    r"\bhttps?://(?:localhost|127\.0\.0\.1|0\.0\.0\.0|\[::1?\])(:\d+)?(/[^\s'\"|;&)]*)?"
)
_FETCH = re.compile(r"\b(?:curl|wget)\b")
_PORT = re.compile(
    r"nc\s+-\w*z\w*\s+(?:localhost|127\.0\.0\.1|0\.0\.0\.0)\s+(\d+)(?:\s*\|\|\s*exit 1)?"
)
# Programs that wait for somebody who types.
_INTERACTIVE = {"bash", "sh", "zsh", "python", "python3", "ipython", "node"}


class Service:
    """The start command and the ready command of a source, of which the last ones count."""

    def __init__(self, *, is_code_interpreter: bool = False) -> None:
        self.is_code_interpreter = is_code_interpreter
        self._start: tuple[Line, list[str]] | None = None
        self._ready: tuple[Line, str] | None = None
        self._ports: list[int] = []

    def start(self, line: Line, command: Sequence[str]) -> None:
        """Set the program and arguments that a sandbox starts."""
        self._start = (line, list(command)) if command else None

    def ready(self, line: Line, command: str) -> None:
        """Set the command that succeeds once the service is ready."""
        self._ready = (line, command) if command else None

    def port(self, port: int) -> None:
        """Add a port that the service listens on."""
        self._ports.append(port)

    def take_over(self, draft: Draft) -> None:
        """Write the service into the spec."""
        line, command = self._start or (None, [])
        plain = command[2:] if command[1:2] == ["-c"] else command
        interactive = len(plain) == 1 and posixpath.basename(plain[0]) in _INTERACTIVE
        if line is None or interactive or _CODE_SERVICE.search(" ".join(command)):
            if self.is_code_interpreter and "base" in draft.document:
                # Only a spec that names no image gets it without being told.
                draft.document["service"] = {"command": [*COMMAND], "ready-url": READY_URL}
            return
        if not draft.set(line, "service", "command", command):
            return
        ready_line, key, value = self._ready_key(line)
        if not key:
            del draft.document["service"]
            draft.note(
                line,
                "nothing says when it is ready: write [service] with this command and a ready-port",
            )
        elif not draft.set(ready_line, "service", key, value):
            del draft.document["service"]

    def _ready_key(self, start: Line) -> tuple[Line, str, object]:
        """Return the key that says when the service is ready, and its value; "" if nothing does."""
        if not self._ready:
            return (start, "ready-port", self._ports[0]) if self._ports else (start, "", None)
        line, command = self._ready
        if (match := _URL.search(command)) and _FETCH.search(command):
            return line, "ready-url", f"http://localhost{match[1] or ''}{match[2] or '/'}"
        if match := _PORT.fullmatch(command.strip()):
            return line, "ready-port", int(match[1])
        return line, "ready-command", ["/bin/sh", "-c", command]
