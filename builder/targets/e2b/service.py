"""The code service of a sandbox on E2B, for its applications and for verification alike.

After a time-out the code is interrupted through Jupyter while its answer is still read: only the
answer's end proves that the interpreter is free. A request that reaches the service earlier is
aborted by the kernel, and then waits for ever. When Jupyter cannot be reached, closing the
connection makes the service interrupt the code itself; how that went only a later request shows.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from importlib import resources
from typing import Any

import e2b
import httpx

from builder.errors import InterpreterDiedError, SandboxError, SandboxGoneError
from builder.sandbox.execution import Execution, Output
from builder.targets.e2b import stream
from builder.targets.e2b.certificates import certificates

SPOILING = "'\"\\\n\r"  # in a variable's value: the service makes other code of it than is meant

SERVICE_PORT = 49999
# The Jupyter server below the code service; a context's ID is that of its kernel.
_JUPYTER_PORT = 8888
_READY_SECONDS = 120.0
_REACH_SECONDS = 10.0
# E2B's answers while the sandbox is there and nothing listens on its port.
_NOT_YET = (429, 500, 502, 503, 504)
_POLL_SECONDS = 0.1
_LOOK_SECONDS = 1.0
_REQUEST_SECONDS = 30.0
_INTERRUPT_SECONDS = 5.0
_AGAIN_SECONDS = 1.0  # code may have caught an interrupt
_PROBE_SECONDS = 2.0
_PAUSE_SECONDS = 0.2  # after which a request is not taken for one of the interrupted code's
_PYTHON = ("python", "python3")
_NAMES = {"js": "javascript", "ts": "typescript"}


class CodeService:
    """Runs code in a sandbox. One caller at a time; `close` it when done.

    `alive` asks whether the sandbox runs, `worded` makes a message of what happened to it.
    """

    def __init__(
        self,
        sandbox: e2b.Sandbox | e2b.AsyncSandbox,
        *,
        alive: Callable[[], Awaitable[bool]],
        worded: Callable[[str], str],
    ) -> None:
        config = sandbox.connection_config
        self._urls = {
            port: config.get_sandbox_url(sandbox.sandbox_id, sandbox.sandbox_domain, port=port)
            for port in (SERVICE_PORT, _JUPYTER_PORT)
        }
        self._headers = dict(config.sandbox_headers)
        self._direct = config.debug  # with nothing before the port that answers while it is closed
        if sandbox.traffic_access_token:
            self._headers["E2B-Traffic-Access-Token"] = sandbox.traffic_access_token
        # HTTP/1.1: closing the connection of an execution must reach the service.
        self._client = httpx.AsyncClient(
            timeout=_REQUEST_SECONDS, proxy=config.proxy, verify=certificates()
        )
        self._alive, self._worded = alive, worded
        self._context: str | None = None
        # An interpreter without `in_kernel` has no such magic, and runs nothing of what follows.
        self._mark = f"%%template_{uuid.uuid4().hex} "
        self._installed = False
        self.broken = False

    async def wait_until_ready(self) -> None:
        """Wait for it, two minutes at most. Raises `SandboxError`."""
        looked = reached = time.monotonic()
        deadline = looked + _READY_SECONDS
        while True:
            try:
                # Nothing is run: a first execution fixes the interpreter's environment.
                answer = await self._ask("GET", "/health")
                if answer.is_success:
                    self._context = await self._context_of("python")
                    return
                problem = f"{answer.status_code} {answer.text[:200]}"
                astray = answer.status_code not in _NOT_YET
            except httpx.TransportError as error:
                problem = str(error) or type(error).__name__
                astray = isinstance(error, httpx.ConnectError) and not self._direct
            reached = reached if astray else time.monotonic()
            if time.monotonic() - reached > _REACH_SECONDS:
                raise SandboxError(
                    self._worded(f"it is not at {self._urls[SERVICE_PORT]}: {problem}"),
                    hint="`sandbox-url` or `domain` of the target, or `E2B_SANDBOX_URL`, says where"
                    " sandboxes are: is that right?",
                )
            if time.monotonic() > deadline:
                raise SandboxError(
                    self._worded(f"its code service was not up within two minutes: {problem}"),
                    hint="is `service.command` what starts it?",
                )
            if time.monotonic() - looked > _LOOK_SECONDS:
                looked = time.monotonic()
                if not await self._alive():
                    raise SandboxError(self._worded("it ended before its code service was up"))
            await asyncio.sleep(_POLL_SECONDS)

    async def renew(self) -> None:
        """Go on in a new interpreter, not in the one that the snapshot holds."""
        try:
            answer = await self._ask("POST", "/contexts", body={"language": "python"})
            self._context, self._installed = str(answer.raise_for_status().json()["id"]), False
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise SandboxError(self._worded(f"it has no new interpreter: {error}")) from error

    async def run(
        self,
        code: str,
        *,
        seconds: float,
        language: str = "python",
        variables: Mapping[str, str],
        limit: int | None,
    ) -> Execution:
        """Run code once. After `seconds` it is interrupted; an interpreter that does not obey is
        restarted. What had begun to run is never run again.

        Raises `InterpreterDiedError`, `SandboxGoneError` where nothing was run, `SandboxError`,
        and `ValueError` for a language or a variable that cannot be.
        """
        asked: dict[str, Any] = {"code": code, **self._where(language)}
        if language in _PYTHON:
            asked["code"] = self._marked(code, variables)
        else:
            _check(variables, language)
            asked["env_vars"] = dict(variables)
        timed_out, output, start = False, Output(limit), time.monotonic()
        try:
            if language in _PYTHON and not self._installed:
                await self._install()
                start = time.monotonic()
            async with self._reading(asked, output) as reading:
                timed_out = not await _ended(reading, seconds)
                reached = timed_out and await self._interrupt(reading, language)
                lost = not reading.done()
                if not lost:
                    await reading
            # One that was reached may be free, and its end behind output that is not read yet.
            probing = _PROBE_SECONDS if reached else _INTERRUPT_SECONDS
            if lost and (lost := not await self._answers(language, probing)):
                await self._restart(language)
        except ValueError:
            raise
        except InterpreterDiedError as error:
            self.broken = True
            seen = output.execution(time.monotonic() - start, timed_out=timed_out, lost=True)
            if timed_out:
                return seen
            error.seen = seen
            raise
        except BaseException:
            self.broken = True
            raise
        return output.execution(time.monotonic() - start, timed_out=timed_out, lost=lost)

    async def close(self) -> None:
        """Give up its connections."""
        self.broken = True
        await self._client.aclose()

    def _marked(self, code: str, variables: Mapping[str, str]) -> str:
        return f"{self._mark}{json.dumps(dict(variables))}\n{code}"

    def _where(self, language: str) -> dict[str, str]:
        if language in _PYTHON and self._context:
            return {"context_id": self._context}
        return {"language": "python" if language in _PYTHON else language}

    async def _install(self) -> None:
        """Run `in_kernel` there. Raises `SandboxGoneError` for an interpreter that is not there."""
        source = resources.files(__package__).joinpath("in_kernel.py").read_text("utf-8")
        source += f"\ninstall(get_ipython(), mark={self._mark!r})\n"
        asked = {"code": f"exec({source!r}, {{'get_ipython': get_ipython}})"}
        # The first execution is preceded by the sandbox's own variables, made into code by the
        # service: one with a quote spoils it, and is not tried again.
        for last in (False, True):
            output = Output()
            try:
                async with self._reading(asked | self._where("python"), output) as reading:
                    if not await _ended(reading, _READY_SECONDS):
                        raise SandboxError(self._worded("its interpreter does not answer"))
                    await reading
            except InterpreterDiedError as error:
                raise SandboxGoneError(self._worded(error.message)) from error
            failed = output.execution(0.0).error
            if not failed:
                self._installed = True
                return
            if last:
                raise SandboxError(self._worded(f"its interpreter cannot be set up: {failed}"))

    @contextlib.asynccontextmanager
    async def _reading(
        self, asked: dict[str, Any], output: Output
    ) -> AsyncIterator[asyncio.Task[None]]:
        """Send code, and have its answer read into `output`; leaving closes the connection."""
        answer = await self._answer(asked)
        reading = asyncio.create_task(self._read(answer, output))
        try:
            yield reading
        finally:
            reading.cancel()
            await asyncio.wait({reading})
            if not reading.cancelled():
                reading.exception()
            await answer.aclose()

    async def _answer(self, asked: dict[str, Any]) -> httpx.Response:
        """The answer of the service, whose head comes before the code runs."""
        deadline = time.monotonic() + _READY_SECONDS
        while True:
            request = self._client.build_request(
                "POST",
                f"{self._urls[SERVICE_PORT]}/execute",
                json=asked,
                headers=self._headers | {"E2b-Sandbox-Port": str(SERVICE_PORT)},
                timeout=httpx.Timeout(_REQUEST_SECONDS, read=_READY_SECONDS),
            )
            try:
                answer = await self._client.send(request, stream=True)
                if answer.is_success:
                    return answer
                reason = (await answer.aread())[:500].decode("utf-8", "replace")
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                refused = str(error)
            except httpx.TransportError as error:
                raise self._connection_lost(error) from error
            else:
                refused = f"{answer.status_code} {reason}"
                if answer.status_code == 404:
                    raise SandboxGoneError(self._worded(f"its interpreter is gone: {refused}"))
                if answer.status_code not in (429, 502, 503):
                    if (language := asked.get("language", "python")) != "python":
                        raise ValueError(f"E2B's code service does not run {language!r}: {refused}")
                    raise SandboxError(self._worded(f"it does not run the code: {refused}"))
            # It was refused at the door: nothing has run.
            if not await self._alive() or time.monotonic() > deadline:
                raise SandboxGoneError(self._worded(f"it is gone, before the code ran: {refused}"))
            await asyncio.sleep(_POLL_SECONDS)

    async def _read(self, answer: httpx.Response, output: Output) -> None:
        try:
            await stream.read(answer.aiter_bytes(), output, magic=self._mark.strip())
        except SandboxGoneError as error:
            raise SandboxGoneError(self._worded(error.message)) from error
        except (httpx.TransportError, httpx.DecodingError, httpx.StreamError) as error:
            raise self._connection_lost(error) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SandboxError(self._worded(f"its answer cannot be read: {error}")) from error

    def _connection_lost(self, error: Exception) -> SandboxError:
        return SandboxError(
            self._worded(
                "the connection was lost while code ran, which is not run again:"
                f" {error or type(error).__name__}"
            )
        )

    async def _interrupt(self, reading: asyncio.Task[None], language: str) -> bool:
        """Interrupt the code until its answer ends; whether Jupyter could be asked to."""
        until, reached = time.monotonic() + _INTERRUPT_SECONDS, False
        with contextlib.suppress(httpx.TransportError):
            context = await self._context_of(language)
            while context and not reading.done() and (left := until - time.monotonic()) > 0:
                path = f"/api/kernels/{context}/interrupt"
                answer = await self._ask("POST", path, port=_JUPYTER_PORT, seconds=left)
                if not answer.is_success:
                    break
                reached = True
                await _ended(reading, min(_AGAIN_SECONDS, left))
        return reached

    async def _answers(self, language: str, seconds: float) -> bool:
        """Whether the interpreter runs code again, of which the connection was closed."""
        code = self._marked("pass", {}) if language in _PYTHON else "0"
        asked = self._where(language) | {"code": code}
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            await asyncio.sleep(_PAUSE_SECONDS)
            # What hangs is interrupted by the service, when the connection is closed.
            try:
                async with (
                    asyncio.timeout(_AGAIN_SECONDS),
                    self._reading(asked, Output(0)) as probe,
                ):
                    await asyncio.wait({probe})
                    await probe
                    return True
            except TimeoutError:
                continue
            except SandboxGoneError:  # of the probe: the code itself had begun to run
                return False
        return False

    async def _restart(self, language: str) -> None:
        """A new interpreter in place of the one that does not obey, or no more of this sandbox."""
        self._installed = self._installed and language not in _PYTHON
        with contextlib.suppress(httpx.TransportError):
            if context := await self._context_of(language):
                answer = await self._ask("POST", f"/contexts/{context}/restart")
                if answer.is_success:
                    return
        self.broken = True

    async def _context_of(self, language: str) -> str | None:
        """The ID of the interpreter: of several for a language, the service's first."""
        if language in _PYTHON and self._context:
            return self._context
        wanted = "python" if language in _PYTHON else _NAMES.get(language, language)
        answer = await self._ask("GET", "/contexts")
        with contextlib.suppress(ValueError, KeyError, TypeError):
            for context in answer.json():
                if context["language"] == wanted:
                    return str(context["id"])
        return None

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        port: int = SERVICE_PORT,
        seconds: float = _REQUEST_SECONDS,
        body: Any = None,
    ) -> httpx.Response:
        headers = self._headers | {"E2b-Sandbox-Port": str(port)}
        return await self._client.request(
            method, f"{self._urls[port]}{path}", headers=headers, timeout=seconds, json=body
        )


async def _ended(reading: asyncio.Task[None], seconds: float) -> bool:
    await asyncio.wait({reading}, timeout=seconds)
    return reading.done()


def _check(variables: Mapping[str, str], language: str) -> None:
    if not language:  # which the service would take for Python
        raise ValueError("E2B's code service does not run ''")
    for name, value in variables.items():
        if not name.isidentifier() or any(character in value for character in SPOILING):
            raise ValueError(
                f"`{name}` cannot be a variable for {language!r}: E2B's code service makes code of"
                " it, in which its name must be an identifier, and its value must hold no quote,"
                " backslash or new line"
            )
