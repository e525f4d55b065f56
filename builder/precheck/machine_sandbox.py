"""Run code in a started container: with its code service, if any, else its interpreter."""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from builder.errors import PrecheckError, SandboxError
from builder.sandbox.commands import CommandResult
from builder.sandbox.execution import Execution, Output
from builder.sandbox.session import CODE_SERVICE_PORT, Sandbox
from builder.spec import Variant

if TYPE_CHECKING:
    from builder.precheck.machine import Machine

_MARGIN_SECONDS = 15.0
_KILLED = 137  # 128 + SIGKILL
_TIMED_OUT = 4
_FOLDER = "/tmp"  # noqa: S108 - of the machine, which is ours alone


# Runs in the container, whose ports need not be reachable from here, and passes on the answer of
# E2B's code service.
_CLIENT = """
import http.client, json, sys, time, urllib.request
origin, path, limit, timed_out = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
body = json.dumps({"code": open(path).read(), "language": "python"}).encode()
asked = urllib.request.Request(origin + "/execute", body, {"Content-Type": "application/json"})
end = time.monotonic() + limit
try:
    with urllib.request.urlopen(asked, timeout=limit) as answer:
        for line in answer:
            sys.stdout.buffer.write(line)
            if time.monotonic() > end:
                sys.exit(timed_out)
except TimeoutError:
    sys.exit(timed_out)
except http.client.IncompleteRead:
    pass
"""


class _MachineSandbox:
    """Code in a container, which its owner ends."""

    def __init__(self, machine: Machine) -> None:
        self.timings: Mapping[str, float] = {}
        self._machine = machine
        self._numbers = itertools.count()

    def _written(self, code: str) -> str:
        path = f"{_FOLDER}/code-{next(self._numbers)}.py"
        self._machine.write(path, code.encode())
        return path

    def command(self, text: str, *, timeout: float) -> CommandResult:
        """Run a command in a login shell, as E2B does. Raise `PrecheckError` if the container has
        stopped."""
        start = time.monotonic()
        words = ["bash", "-l", "-c", text]
        status, out, err = self._machine.run(words, timeout=timeout)
        seconds = time.monotonic() - start
        timed_out = status == _KILLED and seconds >= timeout
        return CommandResult(
            exit_code=status, stdout=out, stderr=err, timed_out=timed_out, seconds=seconds
        )

    def close(self) -> None:
        """Do nothing, since everything ends with the container."""


class InterpreterSandbox(_MachineSandbox):
    """Run each piece of code with the container's `python3`."""

    def run(self, code: str, *, timeout: float) -> Execution:
        """Run code as a program. Raise `PrecheckError` if the container has stopped."""
        words = ["python3", self._written(code)]
        status, out, err = self._machine.run(words, timeout=timeout)
        timed_out = status == _KILLED
        return Execution(
            stdout=out,
            stderr=err,
            error=None if status == 0 or timed_out else _last_line(err, status),
            traceback="" if status == 0 else err,
            timed_out=timed_out,
        )


class ServiceSandbox(_MachineSandbox):
    """Run code in the default interpreter of the container's code service."""

    def __init__(self, machine: Machine, origin: str) -> None:
        super().__init__(machine)
        self._origin = origin
        machine.write(f"{_FOLDER}/code-client.py", _CLIENT.encode())

    def run(self, code: str, *, timeout: float) -> Execution:
        """Run code. Raise `InterpreterDiedError`, `SandboxError` if the service does not answer,
        `PrecheckError` if its answer is empty."""
        import asyncio

        from builder.targets.e2b import stream

        words = ["python3", f"{_FOLDER}/code-client.py", self._origin, self._written(code)]
        words += [str(timeout), str(_TIMED_OUT)]
        status, out, err = self._machine.run(words, timeout=timeout + _MARGIN_SECONDS)
        if status not in (0, _TIMED_OUT):
            raise SandboxError(f"the code service does not answer: {_last_line(err, status)}")
        if status == 0 and not out:
            raise PrecheckError(
                "the code service returned an empty stream: it did not run the code",
                hint="outside E2B's cloud it needs `E2B_LOCAL=true`, which is set for"
                " `service.command`: pass it on, as `sudo --preserve-env=E2B_LOCAL` does",
            )
        output = Output()
        try:
            asyncio.run(stream.read(_parts(out), output))
        except ValueError as error:
            if status == 0:
                text = f"the answer of the code service cannot be read: {error}"
                raise SandboxError(text) from error
        return output.execution(0.0, timed_out=status == _TIMED_OUT)


def _last_line(err: str, status: int) -> str:
    return (err.strip().splitlines() or [f"exit code {status}"])[-1]


async def _parts(answer: str) -> AsyncIterator[bytes]:
    yield answer.encode()


def open_sandbox(machine: Machine, variant: Variant) -> Sandbox:
    """Return a sandbox that runs code in a ready container of `variant`. Raise `PrecheckError` if
    the service on the port of E2B's code service is something else."""
    parts = urlsplit(variant.ready_url or "")
    if not parts.netloc and variant.runs_code:
        parts = urlsplit(f"http://localhost:{CODE_SERVICE_PORT}")
    if parts.netloc:
        origin = f"{parts.scheme}://{parts.netloc}"
        probe = (
            f"import urllib.request; urllib.request.urlopen({origin + '/contexts'!r}, timeout=10)"
        )
        status, _out, err = machine.run(["python3", "-c", probe], timeout=30)
        if status == 0:
            return ServiceSandbox(machine, origin)
        if parts.port == CODE_SERVICE_PORT:
            raise PrecheckError(
                f"the service of `{variant.name}` is ready but is not a code interpreter:"
                f" {origin}/contexts: {_last_line(err, status)}",
                hint="sandboxes on E2B run code through the interpreter on this port: correct"
                " `service.command`",
            )
    return InterpreterSandbox(machine)
