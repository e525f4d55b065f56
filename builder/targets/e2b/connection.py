"""Requests to a sandbox on E2B: to its code service, and to the Jupyter server below that."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import e2b
import httpx

from builder.errors import SandboxError, SandboxGoneError
from builder.sandbox.execution import Output
from builder.sandbox.session import CODE_SERVICE_PORT, ConnectionLostError
from builder.targets.e2b import stream
from builder.targets.e2b.certificates import certificates

JUPYTER_PORT = 8888
POLL_SECONDS = 0.1
START_SECONDS = 120.0
_REQUEST_SECONDS = 30.0


class Connection:
    """Requests to one sandbox. Python code that is sent begins with the cell `magic`."""

    def __init__(
        self,
        sandbox: e2b.AsyncSandbox,
        *,
        alive: Callable[[], Awaitable[bool]],
        worded: Callable[[str], str],
    ) -> None:
        """`alive` returns whether the sandbox runs, `worded` makes a message about it."""
        config = sandbox.connection_config
        self.urls = {
            port: config.get_sandbox_url(sandbox.sandbox_id, sandbox.sandbox_domain, port=port)
            for port in (CODE_SERVICE_PORT, JUPYTER_PORT)
        }
        self.is_direct = config.debug  # no proxy responds while the port is closed
        self._headers = dict(config.sandbox_headers)
        if sandbox.traffic_access_token:
            self._headers["E2B-Traffic-Access-Token"] = sandbox.traffic_access_token
        # HTTP/1.1, so that closing an execution's connection reaches the service.
        self._client = httpx.AsyncClient(
            timeout=_REQUEST_SECONDS, proxy=config.proxy, verify=certificates()
        )
        self.alive, self.worded = alive, worded
        # An interpreter without `in_kernel` has no such magic, and runs nothing of what follows.
        self.magic = f"%%template_{uuid.uuid4().hex}"

    def error(self, text: str, *, hint: str | None = None) -> SandboxError:
        """Return an error of the sandbox."""
        return SandboxError(self.worded(text), hint=hint)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def ask(
        self,
        method: str,
        path: str,
        *,
        port: int = CODE_SERVICE_PORT,
        seconds: float | httpx.Timeout = _REQUEST_SECONDS,
        body: Any = None,
        stream: bool = False,
    ) -> httpx.Response:
        """Return the response to a request, with its content unless it is a `stream`."""
        headers = self._headers | {"E2b-Sandbox-Port": str(port)}
        request = self._client.build_request(
            method, f"{self.urls[port]}{path}", headers=headers, timeout=seconds, json=body
        )
        return await self._client.send(request, stream=stream)

    async def interpreter(self, language: str) -> str | None:
        """Return the ID of a language's interpreter, the service's first if there are several."""
        response = await self.ask("GET", "/contexts")
        with contextlib.suppress(ValueError, KeyError, TypeError):
            for context in response.json():
                if context["language"] == language:
                    return str(context["id"])
        return None

    @contextlib.asynccontextmanager
    async def executing(
        self, body: Mapping[str, Any], output: Output
    ) -> AsyncIterator[asyncio.Task[None]]:
        """Send code; yield the task that reads its response into `output`. Leaving the block closes
        the connection."""
        response = await self._execute(body)
        reading = asyncio.create_task(self._read(response, output))
        try:
            yield reading
        finally:
            reading.cancel()
            await asyncio.wait({reading})
            if not reading.cancelled():
                reading.exception()
            await response.aclose()

    async def _execute(self, body: Mapping[str, Any]) -> httpx.Response:
        """Return the response to an execution; its head arrives before the code runs."""
        deadline = time.monotonic() + START_SECONDS
        seconds = httpx.Timeout(_REQUEST_SECONDS, read=START_SECONDS)
        while True:
            try:
                response = await self.ask(
                    "POST", "/execute", seconds=seconds, body=body, stream=True
                )
                if response.is_success:
                    return response
                content = (await response.aread())[:500].decode("utf-8", "replace")
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                reason = str(error)
            except httpx.TransportError as error:
                raise self._lost(error) from error
            else:
                reason = f"{response.status_code} {content}"
                if response.status_code == 404:
                    raise SandboxGoneError(self.worded(f"its interpreter is gone: {reason}"))
                if response.status_code not in (429, 502, 503):
                    if (language := body.get("language", "python")) != "python":
                        raise ValueError(f"E2B's code service does not run {language!r}: {reason}")
                    raise self.error(f"it does not run the code: {reason}")
            # Refused before anything ran.
            if not await self.alive() or time.monotonic() > deadline:
                raise SandboxGoneError(self.worded(f"it ended before the code ran: {reason}"))
            await asyncio.sleep(POLL_SECONDS)

    async def _read(self, response: httpx.Response, output: Output) -> None:
        try:
            await stream.read(response.aiter_bytes(), output, magic=self.magic)
        except SandboxGoneError as error:
            raise SandboxGoneError(self.worded(error.message)) from error
        except (httpx.TransportError, httpx.DecodingError, httpx.StreamError) as error:
            raise self._lost(error) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self.error(f"cannot read its response: {error}") from error

    def _lost(self, error: Exception) -> ConnectionLostError:
        reason = str(error) or type(error).__name__
        lost = f"the connection was lost while code ran; it is not run again: {reason}"
        return ConnectionLostError(self.worded(lost))
