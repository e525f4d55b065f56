"""Sandboxes of E2B for applications, over the SDK; code is run over the code service's own stream.

The SDK's reading of that stream takes an interpreter that was killed for one that has ended well,
and keeps output without a limit, so the lines are read here: one JSON object each, of the types
`stdout`, `stderr`, `result`, `error`, `end_of_execution`, `unexpected_end_of_execution` and some
that tell of progress.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeVar

import e2b
import httpx
import tenacity
from e2b.connection_config import ApiParams

from builder.documents import parse_json
from builder.errors import (
    InterpreterDiedError,
    LimitError,
    NetworkError,
    SandboxError,
    SandboxGoneError,
    TargetUnavailableError,
    TemplateError,
    UnknownTemplateError,
)
from builder.execution import Execution, Output
from builder.targets.e2b.failures import failure_of, if_it_may_pass, kind_of
from builder.targets.e2b.files import CloudFiles
from builder.tasks import finished

__all__ = ["CloudSession"]

_T = TypeVar("_T")
_logger = logging.getLogger(__name__)
_SERVICE_PORT = 49999
# The Jupyter server below the code service; a context's ID is that of its kernel.
_JUPYTER_PORT = 8888
_READY_SECONDS = 120.0
_POLL_SECONDS = 0.1
_REQUEST_SECONDS = 30.0
_LIMIT_SECONDS = 60.0
_FAULT_ATTEMPTS = 5
_INTERRUPT_SECONDS = 5.0
_KILL_SECONDS = 20.0
_METADATA = "template-builder-session"
_PYTHON = ("python", "python3")
_HEAD_BYTES = 4096
_MIME = {
    "text": "text/plain", "html": "text/html", "markdown": "text/markdown", "svg": "image/svg+xml",
    "png": "image/png", "jpeg": "image/jpeg", "pdf": "application/pdf", "latex": "text/latex",
    "json": "application/json", "javascript": "application/javascript",
}  # fmt: skip


class CloudSession:
    """A running sandbox. One caller at a time."""

    def __init__(self, sandbox: e2b.AsyncSandbox, *, key: str, lifetime: float) -> None:
        self._sandbox, self._key, self.lifetime = sandbox, key, lifetime
        self.id = sandbox.sandbox_id
        self.files = CloudFiles(sandbox)
        self.opened_at = time.monotonic()
        self._context: str | None = None
        self._broken = False
        config = sandbox.connection_config
        self._urls = {
            port: config.get_sandbox_url(sandbox.sandbox_id, sandbox.sandbox_domain, port=port)
            for port in (_SERVICE_PORT, _JUPYTER_PORT)
        }
        self._headers = dict(config.sandbox_headers)
        if sandbox.traffic_access_token:
            self._headers["E2B-Traffic-Access-Token"] = sandbox.traffic_access_token
        # HTTP/1.1: closing the connection of an execution must reach the service.
        self._client = httpx.AsyncClient(timeout=_REQUEST_SECONDS, proxy=config.proxy)

    @classmethod
    async def open(
        cls, ref: str, *, api_key: str, domain: str | None, seconds: int
    ) -> CloudSession:
        """Create a sandbox of `ref`, which E2B ends after `seconds`.

        Raises `UnknownTemplateError`, `TargetUnavailableError` for a key that is refused,
        `LimitError`, `NetworkError`, `SandboxError`; then, and when it is cancelled, no sandbox is
        left behind.
        """
        options: ApiParams = {"api_key": api_key}
        if domain:
            options["domain"] = domain
        mark = uuid.uuid4().hex

        async def create() -> e2b.AsyncSandbox:
            return await e2b.AsyncSandbox.create(
                ref,
                timeout=seconds,
                metadata={_METADATA: mark},
                idempotency_key=mark,
                **options,
            )

        creating = asyncio.ensure_future(_retried(create))
        try:
            return cls(await asyncio.shield(creating), key=api_key, lifetime=seconds)
        except asyncio.CancelledError:
            await finished(_discarded(creating, create))
            raise
        except Exception as error:
            if kind_of(error) == "fault":
                await finished(_kill_marked(mark, options))
            raise _translated(error, ref, api_key) from error

    async def wait_until_ready(self) -> None:
        """Wait for the code service, two minutes at most. Raises `SandboxError`."""
        deadline = time.monotonic() + _READY_SECONDS
        looked = time.monotonic()
        while True:
            try:
                answer = await self._ask("GET", "/health")
                if answer.is_success:
                    await self._find_context()
                    return
                said = f"{answer.status_code} {answer.text[:200]}"
            except httpx.TransportError as error:
                said = str(error) or type(error).__name__
            if time.monotonic() > deadline:
                raise SandboxError(
                    self._told(f"its code service was not up within two minutes: {said}"),
                    hint="is `service.command` what starts it?",
                )
            if time.monotonic() - looked > 1:
                looked = time.monotonic()
                if not await self.check():
                    raise SandboxError(self._told("it ended before its code service was up"))
            await asyncio.sleep(_POLL_SECONDS)

    async def run(
        self, code: str, *, seconds: float, language: str, variables: Mapping[str, str], limit: int
    ) -> Execution:
        """Run code once. After `seconds` it is interrupted; an interpreter that does not
        obey is restarted. Raises `SandboxError`; what had begun to run is never run again."""
        _check(variables)
        asked: dict[str, Any] = {"code": code, "env_vars": dict(variables)}
        if language in _PYTHON and self._context:
            asked["context_id"] = self._context
        else:
            asked["language"] = language
        start, output = time.monotonic(), Output(limit)
        try:
            await self._stream(asked, output, seconds)
        except TimeoutError:
            lost = not await self._interrupted(asked)
            return output.execution(time.monotonic() - start, timed_out=True, lost=lost)
        except InterpreterDiedError as error:
            self._broken = True
            output.failed("InterpreterDied", error.message, "")
            return output.execution(time.monotonic() - start, lost=True)
        except (asyncio.CancelledError, SandboxError):
            self._broken = True
            raise
        return output.execution(time.monotonic() - start)

    def usable(self) -> bool:
        """Whether nothing is known that keeps it from running code."""
        return not self._broken

    async def check(self) -> bool:
        """Ask E2B whether it runs; what cannot be asked is taken for yes."""
        with contextlib.suppress(Exception):
            self._broken = self._broken or not await self._sandbox.is_running()
        return self.usable()

    async def close(self) -> None:
        """End the sandbox; what fails is left to its own timeout."""
        self._broken = True
        with contextlib.suppress(Exception):
            await self._client.aclose()
        try:
            async with asyncio.timeout(_KILL_SECONDS):
                await _retried(self._sandbox.kill)
        except Exception as error:  # noqa: BLE001 - whatever it is, an end must end
            _logger.warning(
                "the sandbox %s could not be ended, which its own timeout will do: %s",
                self.id,
                str(error).replace(self._key, "<the key>"),
            )

    async def _stream(self, asked: dict[str, Any], output: Output, seconds: float) -> None:
        """Run code, and take what it gives; raises `TimeoutError` after `seconds` of that."""
        deadline = time.monotonic() + _READY_SECONDS
        while True:
            try:
                async with self._client.stream(
                    "POST",
                    f"{self._urls[_SERVICE_PORT]}/execute",
                    json=asked,
                    headers=self._headers | {"E2b-Sandbox-Port": str(_SERVICE_PORT)},
                    # The head of the answer comes before the code runs.
                    timeout=httpx.Timeout(_REQUEST_SECONDS, read=_READY_SECONDS),
                ) as answer:
                    if answer.is_success:
                        async with asyncio.timeout(seconds):
                            await self._read(answer, output)
                        return
                    said = (await answer.aread())[:500].decode("utf-8", "replace")
                    refused = f"{answer.status_code} {said}"
                    if answer.status_code not in (429, 502, 503):
                        if asked.get("language", "python") not in _PYTHON:
                            raise ValueError(
                                f"E2B's code service does not run {asked['language']!r}: {refused}"
                            )
                        raise SandboxError(self._told(f"it does not run the code: {refused}"))
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                refused = str(error)
            except (httpx.TransportError, httpx.DecodingError, httpx.StreamError) as error:
                raise SandboxError(
                    self._told(
                        "the connection was lost while code ran, which is not run again:"
                        f" {error or type(error).__name__}"
                    )
                ) from error
            # It was refused at the door: nothing has run.
            if not await self.check() or time.monotonic() > deadline:
                raise SandboxGoneError(self._told(f"it is gone, before the code ran: {refused}"))
            await asyncio.sleep(_POLL_SECONDS)

    async def _read(self, answer: httpx.Response, output: Output) -> None:
        async for line in _lines(answer, output):
            try:
                event = parse_json(line)
                ended = _take(event, output)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise SandboxError(self._told(f"its answer cannot be read: {error}")) from error
            if ended:
                return
        raise SandboxError(self._told("the answer ended before the code did"))

    async def _interrupted(self, asked: dict[str, Any]) -> bool:
        """Interrupt the code, or restart its interpreter; whether what it has defined is kept."""
        context = asked.get("context_id")
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_INTERRUPT_SECONDS):
                if context:
                    await self._ask("POST", f"/api/kernels/{context}/interrupt", _JUPYTER_PORT)
                probe = asked | {"code": "pass", "env_vars": {}}
                await self._stream(probe, Output(0), _INTERRUPT_SECONDS)
                return True
        with contextlib.suppress(Exception):
            if context:
                async with asyncio.timeout(_REQUEST_SECONDS):
                    answer = await self._ask("POST", f"/contexts/{context}/restart")
                    if answer.is_success:
                        return False
        self._broken = True
        return False

    async def _find_context(self) -> None:
        """The interpreter that the snapshot holds: the service's first for Python."""
        answer = await self._ask("GET", "/contexts")
        with contextlib.suppress(ValueError, KeyError, TypeError):
            for context in answer.json():
                if context["language"] == "python":
                    self._context = str(context["id"])
                    return

    async def _ask(self, method: str, path: str, port: int = _SERVICE_PORT) -> httpx.Response:
        headers = self._headers | {"E2b-Sandbox-Port": str(port)}
        return await self._client.request(method, f"{self._urls[port]}{path}", headers=headers)

    def _told(self, text: str) -> str:
        return f"the sandbox {self.id}: {text}".replace(self._key, "<the key>")


def _take(event: dict[str, Any], output: Output) -> bool:
    """Take one line of an execution's answer; whether it is the last one."""
    kind = event["type"]
    if kind in ("stdout", "stderr"):
        output.stream(kind, event["text"])
    elif kind == "result":
        data = {_MIME[key]: value for key, value in event.items() if key in _MIME and value}
        output.result(data, main=bool(event.get("is_main_result")))
    elif kind == "error":
        if event["name"] == "UnexpectedEndOfExecution":
            raise InterpreterDiedError("the interpreter died while it ran the code")
        output.failed(event["name"], event["value"], event["traceback"])
    elif kind == "unexpected_end_of_execution":
        raise InterpreterDiedError("the interpreter died while it ran the code")
    return bool(kind == "end_of_execution")


async def _lines(answer: httpx.Response, output: Output) -> AsyncIterator[bytes]:
    """The lines of an answer; those far beyond the limit of `output` are left out."""
    longest = 4 * (output.limit or 0) + (1 << 20)
    rest, dropped, head = b"", 0, b""
    async for part in answer.aiter_bytes():
        *whole, rest = (rest + part).split(b"\n")
        for line in whole:
            if dropped:
                output.leave_out(dropped + len(line))
                dropped = 0
                if told := _error_in(head):
                    yield told
            elif line.strip():
                yield line
        if dropped or len(rest) > longest:
            head = head if dropped else rest[:_HEAD_BYTES]
            rest, dropped = b"", dropped + len(rest)
    if rest.strip():
        yield rest


def _error_in(head: bytes) -> bytes | None:
    """Of a line that was left out, the error that it told, from the beginning of it."""
    if not re.search(rb'"type":\s*"error"', head):
        return None
    found = {"type": "error", "name": "Error", "value": "", "traceback": ""}
    for key in ("name", "value"):
        if text := re.search(rb'"%s":\s*"((?:[^"\\]|\\.)*)' % key.encode(), head):
            with contextlib.suppress(ValueError):
                found[key] = json.loads(b'"%s"' % text[1])
    found["value"] += " … left out"
    return json.dumps(found).encode()


def _check(variables: Mapping[str, str]) -> None:
    for name, value in variables.items():
        if any(character in value for character in "'\\\n\r"):
            raise ValueError(
                f"the value of `{name}` holds a quote, a backslash or a new line, which E2B's code"
                " service would take for code"
            )


async def _retried(call: Callable[[], Awaitable[_T]]) -> _T:
    """What a call gives in the end: limits are waited for, faults are tried again, with a bound."""

    def give_up(state: tenacity.RetryCallState) -> bool:
        if kind_of(failure_of(state)) == "limit":
            return (state.seconds_since_start or 0.0) > _LIMIT_SECONDS
        return state.attempt_number >= _FAULT_ATTEMPTS

    async def attempt() -> _T:
        return await call()

    retrying = tenacity.AsyncRetrying(
        retry=if_it_may_pass,
        stop=give_up,
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=5, min=0.1),
        reraise=True,
    )
    return await retrying(attempt)


async def _discarded(
    creating: asyncio.Future[e2b.AsyncSandbox], create: Callable[[], Awaitable[e2b.AsyncSandbox]]
) -> None:
    with contextlib.suppress(Exception):
        async with asyncio.timeout(_KILL_SECONDS):
            await asyncio.wait([creating])
            # A loop that ends cancels this, too; the same key gives the sandbox that was made.
            await _retried((await (_retried(create) if creating.cancelled() else creating)).kill)


async def _kill_marked(mark: str, options: ApiParams) -> None:
    """End a sandbox that was created though nobody was told of it."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(_KILL_SECONDS):
            found = e2b.AsyncSandbox.list(
                query=e2b.SandboxQuery(metadata={_METADATA: mark}), **options
            )
            for sandbox in await found.next_items():
                await e2b.AsyncSandbox.kill(sandbox.sandbox_id, **options)


def _translated(error: Exception, ref: str, key: str) -> TemplateError:
    if isinstance(error, TemplateError):
        return error
    said = (str(error) or type(error).__name__).replace(key, "<the key>")
    if isinstance(error, e2b.AuthenticationException):
        return TargetUnavailableError(f"E2B refused the key: {said}")
    if isinstance(error, e2b.NotFoundException) or said.startswith("404"):
        return UnknownTemplateError(f"E2B has no template `{ref}`: {said}")
    kind = kind_of(error)
    if kind == "limit":
        return LimitError(
            f"creating a sandbox of `{ref}` was refused for {_LIMIT_SECONDS:.0f} seconds: {said}",
            hint="end sandboxes that are not needed, or ask E2B for a higher limit",
        )
    if kind == "fault":
        return NetworkError(f"creating a sandbox of `{ref}` failed: {said}")
    return SandboxError(f"creating a sandbox of `{ref}` was refused: {said}")
