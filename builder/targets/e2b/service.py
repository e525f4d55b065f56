"""Run code through the code service of a sandbox on E2B, for applications and verification.

After a time-out the code is interrupted through Jupyter while its response is still read: only the
end of the response proves that the interpreter is free. The kernel would abort an earlier request,
which then never ends. If Jupyter cannot be reached, closing the connection makes the service
interrupt the code; only a later request shows whether that worked.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Mapping
from importlib import resources
from typing import Any, Unpack

import httpx

from builder.errors import InterpreterDiedError, SandboxGoneError
from builder.sandbox.execution import Execution, Output
from builder.sandbox.session import CODE_SERVICE_PORT, RunOptions
from builder.targets.e2b.connection import (
    JUPYTER_PORT,
    POLL_SECONDS,
    START_SECONDS,
    Connection,
)

SPOILING = "'\"\\\n\r"  # in a variable's value: the service would turn it into other code

_REACH_SECONDS = 10.0
# E2B's responses while the sandbox exists and nothing listens on its port.
_NOT_YET = (429, 500, 502, 503, 504)
_LOOK_SECONDS = 1.0
_INTERRUPT_SECONDS = 5.0
_AGAIN_SECONDS = 1.0  # code may have caught an interrupt
_PROBE_SECONDS = 2.0
_PAUSE_SECONDS = 0.2  # after this, the service does not abort a request with the interrupted code
_PYTHON = ("python", "python3")
_NAMES = {"js": "javascript", "ts": "typescript"}


class CodeService:
    """Runs code in a sandbox. One caller at a time; `close` it when done."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._context: str | None = None
        self._installed = False
        self.broken = False

    async def wait_until_ready(self) -> None:
        """Wait up to two minutes for the service. Raises `SandboxError`."""
        looked = reached = time.monotonic()
        deadline = looked + START_SECONDS
        while True:
            try:
                # Run no code: the first execution fixes the interpreter's environment.
                response = await self._connection.ask("GET", "/health")
                if response.is_success:
                    self._context = await self._context_of("python")
                    return
                problem = f"{response.status_code} {response.text[:200]}"
                astray = response.status_code not in _NOT_YET
            except httpx.TransportError as error:
                problem = str(error) or type(error).__name__
                astray = isinstance(error, httpx.ConnectError) and not self._connection.is_direct
            reached = reached if astray else time.monotonic()
            if time.monotonic() - reached > _REACH_SECONDS:
                url = self._connection.urls[CODE_SERVICE_PORT]
                raise self._connection.error(
                    f"it is not at {url}: {problem}",
                    hint="check where sandboxes are: `sandbox-url` or `domain` of the target, or"
                    " `E2B_SANDBOX_URL`",
                )
            if time.monotonic() > deadline:
                raise self._connection.error(
                    f"its code service did not start within two minutes: {problem}",
                    hint="check that `service.command` starts it",
                )
            if time.monotonic() - looked > _LOOK_SECONDS:
                looked = time.monotonic()
                if not await self._connection.alive():
                    raise self._connection.error("it ended before its code service started")
            await asyncio.sleep(POLL_SECONDS)

    async def renew(self) -> None:
        """Continue in a new interpreter instead of the snapshot's."""
        try:
            response = await self._connection.ask("POST", "/contexts", body={"language": "python"})
            self._context = str(response.raise_for_status().json()["id"])
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise self._connection.error(f"it has no new interpreter: {error}") from error
        self._installed = False

    async def run(self, code: str, **options: Unpack[RunOptions]) -> Execution:
        """Run code once.

        After `seconds` the code is interrupted, and an interpreter that ignores that is restarted.
        Code that began to run is never run again. Raises `InterpreterDiedError`, `SandboxGoneError`
        if nothing ran, `SandboxError`, and `ValueError` for an invalid language or variable.
        """
        seconds, language = options["seconds"], options["language"]
        body: dict[str, Any] = {"code": code, **self._where(language)}
        if language in _PYTHON:
            body["code"] = self._marked(code, options["variables"])
        else:
            _check(options["variables"], language)
            body["env_vars"] = dict(options["variables"])
        timed_out, output, start = False, Output(options["limit"]), time.monotonic()
        try:
            if language in _PYTHON and not self._installed:
                await self._install()
                start = time.monotonic()
            async with self._connection.executing(body, output) as reading:
                timed_out = not await _ended(reading, seconds)
                reached = timed_out and await self._interrupt(reading, language)
                lost = not reading.done()
                if not lost:
                    await reading
            # An interpreter that was reached may be free, its end behind output not yet read.
            probing = _PROBE_SECONDS if reached else _INTERRUPT_SECONDS
            if lost and (lost := not await self._responds(language, probing)):
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
        """Close its connections."""
        self.broken = True
        await self._connection.close()

    def _marked(self, code: str, variables: Mapping[str, str]) -> str:
        return f"{self._connection.magic} {json.dumps(dict(variables))}\n{code}"

    def _where(self, language: str) -> dict[str, str]:
        if language in _PYTHON and self._context:
            return {"context_id": self._context}
        return {"language": "python" if language in _PYTHON else language}

    async def _install(self) -> None:
        """Install `in_kernel` in the interpreter. Raises `SandboxGoneError` if that is gone."""
        source = resources.files(__package__).joinpath("in_kernel.py").read_text("utf-8")
        source += f"\ninstall(get_ipython(), mark={f'{self._connection.magic} '!r})\n"
        body = {"code": f"exec({source!r}, {{'get_ipython': get_ipython}})"}
        # Before the first execution the service runs the sandbox's own variables as code: a quote
        # in one breaks that execution, but not the next.
        for last in (False, True):
            output = Output()
            try:
                async with self._connection.executing(
                    body | self._where("python"), output
                ) as reading:
                    if not await _ended(reading, START_SECONDS):
                        raise self._connection.error("its interpreter does not respond")
                    await reading
            except InterpreterDiedError as error:
                raise SandboxGoneError(self._connection.worded(error.message)) from error
            failure = output.execution(0.0).error
            if not failure:
                self._installed = True
                return
            if last:
                raise self._connection.error(f"its interpreter cannot be set up: {failure}")

    async def _interrupt(self, reading: asyncio.Task[None], language: str) -> bool:
        """Interrupt the code until its response ends; return True if Jupyter could be reached."""
        until, reached = time.monotonic() + _INTERRUPT_SECONDS, False
        with contextlib.suppress(httpx.TransportError):
            context = await self._context_of(language)
            path = f"/api/kernels/{context}/interrupt"
            while context and not reading.done() and (left := until - time.monotonic()) > 0:
                response = await self._connection.ask("POST", path, port=JUPYTER_PORT, seconds=left)
                if not response.is_success:
                    break
                reached = True
                await _ended(reading, min(_AGAIN_SECONDS, left))
        return reached

    async def _responds(self, language: str, seconds: float) -> bool:
        """Return True once the interpreter runs code again, after its connection was closed."""
        code = self._marked("pass", {}) if language in _PYTHON else "0"
        body = self._where(language) | {"code": code}
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            await asyncio.sleep(_PAUSE_SECONDS)
            # If the probe hangs, closing its connection makes the service interrupt it.
            try:
                async with (
                    asyncio.timeout(_AGAIN_SECONDS),
                    self._connection.executing(body, Output(0)) as probe,
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
        """Replace an interpreter that ignores interrupts, or give up the sandbox."""
        self._installed = self._installed and language not in _PYTHON
        with contextlib.suppress(httpx.TransportError):
            if context := await self._context_of(language):
                response = await self._connection.ask("POST", f"/contexts/{context}/restart")
                if response.is_success:
                    return
        self.broken = True

    async def _context_of(self, language: str) -> str | None:
        """Return the ID of the language's interpreter."""
        if language in _PYTHON and self._context:
            return self._context
        name = "python" if language in _PYTHON else _NAMES.get(language, language)
        return await self._connection.interpreter(name)


async def _ended(reading: asyncio.Task[None], seconds: float) -> bool:
    await asyncio.wait({reading}, timeout=seconds)
    return reading.done()


def _check(variables: Mapping[str, str], language: str) -> None:
    if not language:  # which the service would take for Python
        raise ValueError("E2B's code service does not run ''")
    for name, value in variables.items():
        if not name.isidentifier() or any(character in value for character in SPOILING):
            raise ValueError(
                f"`{name}` cannot be a variable for {language!r}: E2B's code service turns it into"
                " code; its name must be an identifier, and its value must contain no quote,"
                " backslash or line end"
            )
