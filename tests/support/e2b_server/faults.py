"""Faults on the way to the server: responses that are errors, late, cut off or missing."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal[
    "status",
    "reset before",
    "reset after",
    "slow",
    "slow body",
    "truncated",
    "lost page",
]


@dataclass
class Fault:
    """A fault of the next `times` requests whose "METHOD /path" matches."""

    request: str
    kind: Kind
    code: int = 500
    body: str | None = None
    seconds: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 1
    skip: int = 0
    happened: int = 0


class Faulty:
    """An application behind faults; it must be outermost, since it closes connections."""

    def __init__(self, application: Any) -> None:
        self._application = application
        self._lock = threading.Lock()
        self.faults: list[Fault] = []
        self.requests: list[str] = []

    def _due(self, request: str) -> Fault | None:
        with self._lock:
            self.requests.append(request)
            for fault in self.faults:
                if not re.fullmatch(fault.request, request):
                    continue
                if fault.skip:
                    fault.skip -= 1
                elif fault.happened < fault.times:
                    fault.happened += 1
                    return fault
        return None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        # As in E2B's router, an encoded `/` does not split a segment of the path.
        scope = {**scope, "path": scope["raw_path"].decode()}
        fault = self._due(f"{scope['method']} {scope['path']}")
        if fault is None:
            await self._application(scope, receive, send)
        elif fault.kind == "status":
            injected = json.dumps({"code": fault.code, "message": "injected"})
            body = injected if fault.body is None else fault.body
            await self._drain(receive)
            await _answer(send, fault.code, body.encode(), fault.headers)
        elif fault.kind == "slow":
            await asyncio.sleep(fault.seconds)
            await self._application(scope, receive, send)
        elif fault.kind == "reset before":
            send.__self__.transport.abort()
        else:
            await self._spoilt(fault, scope, receive, send)

    async def _spoilt(self, fault: Fault, scope: Any, receive: Any, send: Any) -> None:
        start: dict[str, Any] = {}
        parts: list[bytes] = []

        async def collect(message: Any) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            else:
                parts.append(message.get("body", b""))

        await self._application(scope, receive, collect)
        body = b"".join(parts)
        if fault.kind == "reset after":
            send.__self__.transport.abort()
            return
        if fault.kind == "truncated":
            body = body[: len(body) // 2]
        elif fault.kind == "lost page":
            content = json.loads(body)
            content["logEntries"] = []
            body = json.dumps(content).encode()
        if fault.kind == "slow body":
            headers = [(k, v) for k, v in start["headers"] if k != b"content-length"]
            await send(start | {"headers": headers})
            for number in range(0, len(body), 64):
                await asyncio.sleep(fault.seconds or 0.02)
                part = {"body": body[number : number + 64], "more_body": True}
                await send({"type": "http.response.body", **part})
            await send({"type": "http.response.body", "body": b""})
            return
        await _answer(send, start["status"], body, {"content-type": "application/json"})

    @staticmethod
    async def _drain(receive: Any) -> None:
        while True:
            message = await receive()
            if message["type"] != "http.request" or not message.get("more_body"):
                return


async def _answer(send: Any, code: int, body: bytes, headers: dict[str, str]) -> None:
    all_headers = {"content-type": "application/json", "content-length": str(len(body))} | headers
    raw = [(name.lower().encode(), value.encode()) for name, value in all_headers.items()]
    await send({"type": "http.response.start", "status": code, "headers": raw})
    await send({"type": "http.response.body", "body": body})
