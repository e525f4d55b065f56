"""Run the commands of a sandbox as E2B's envd does: `process.Process` as Connect calls in JSON."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.support.e2b_server.sandboxes import ContainerService, Running
from tests.support.e2b_server.state import ApiError

_LAST = 2
_READY_SECONDS = 60.0


def routes(sandbox_of: Callable[[Request], Running], problems: list[str]) -> list[Route]:
    """Return the routes for the sandbox of a request; unexpected errors become problems."""

    async def start(request: Request) -> Response:
        try:
            sandbox = sandbox_of(request)
            if request.headers.get("content-type") != "application/connect+json":
                raise ApiError(415, "not Connect in JSON")
            command = json.loads((await request.body())[5:])["process"]
            if command["cmd"] != "/bin/bash" or command["args"][:2] != ["-l", "-c"]:
                raise ApiError(400, f"not a command of the SDK: {command}")
        except ApiError as error:
            content = {"code": error.code, "message": error.message}
            return JSONResponse(content, status_code=error.code)
        except Exception as error:  # noqa: BLE001 - a test looks at what went wrong
            problems.append(f"{request.url.path}: {error!r}")
            return JSONResponse({"code": 500, "message": repr(error)}, status_code=500)
        text = command["args"][2]
        in_container = isinstance(sandbox.service, ContainerService)
        events = _in_container(sandbox, text) if in_container else _here(sandbox, text)
        return StreamingResponse(_enveloped(events), media_type="application/connect+json")

    async def send_signal(request: Request) -> Response:
        sandbox_of(request)
        pid = json.loads(await request.body())["process"]["pid"]
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        return JSONResponse({})

    return [
        Route("/process.Process/Start", start, methods=["POST"]),
        Route("/process.Process/SendSignal", send_signal, methods=["POST"]),
    ]


async def _here(sandbox: Running, text: str) -> AsyncIterator[dict[str, Any]]:
    """Run a command on this machine, in the sandbox's folder; its Python is that of the tests. A
    login shell would find this machine's."""
    search = f"{os.path.dirname(sys.executable)}:/usr/local/bin:/usr/bin:/bin"
    process = await asyncio.create_subprocess_exec(
        *("/bin/bash", "-c", text),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=sandbox.machine.home,
        env={"HOME": sandbox.machine.home, "PATH": search, "USER": "user"},
        start_new_session=True,
    )
    yield {"start": {"pid": process.pid}}
    out, err = await process.communicate()
    assert process.returncode is not None
    for event in _ended(process.returncode, out, err):
        yield event


async def _in_container(sandbox: Running, text: str) -> AsyncIterator[dict[str, Any]]:
    yield {"start": {"pid": 1}}
    with ThreadPoolExecutor(max_workers=1) as thread:
        loop = asyncio.get_running_loop()
        status, (out, err) = await loop.run_in_executor(thread, _run_in_container, sandbox, text)
    for event in _ended(status, out, err):
        yield event


def _run_in_container(sandbox: Running, text: str) -> tuple[int, tuple[bytes, bytes]]:
    service = sandbox.service
    assert isinstance(service, ContainerService)
    # E2B copies a machine whose service is ready.
    deadline = time.monotonic() + _READY_SECONDS
    while not service.ready() and time.monotonic() < deadline:
        time.sleep(0.1)
    return service.command(text)


def _ended(status: int, out: bytes | None, err: bytes | None) -> list[dict[str, Any]]:
    data = [
        {"data": {name: base64.b64encode(content).decode()}}
        for name, content in (("stdout", out), ("stderr", err))
        if content
    ]
    # envd reports -1 for a process that a signal ended.
    code = {"exitCode": max(status, -1)} if status else {}
    return [*data, {"end": {"exited": status >= 0, "status": f"exit status {status}", **code}}]


async def _enveloped(events: AsyncIterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    async for event in events:
        yield _envelope(0, {"event": event})
    yield _envelope(_LAST, {})


def _envelope(flags: int, message: dict[str, Any]) -> bytes:
    content = json.dumps(message).encode()
    return bytes([flags]) + len(content).to_bytes(4, "big") + content
