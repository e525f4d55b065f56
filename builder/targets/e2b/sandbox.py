"""A sandbox on E2B whose code runs through its code service."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import e2b

from builder.errors import SandboxError, TemplateError
from builder.execution import Execution, plain
from builder.processes import pause, when_stopped
from builder.targets.e2b.cloud import Cloud

__all__ = ["CloudSandbox"]

_LIFE_SECONDS = 900
_MARGIN_SECONDS = 120
_READY_SECONDS = 120.0
_POLL_SECONDS = 0.2
_LOOK_SECONDS = 2.0
_ATTEMPTS = 5
# Refused at the door: too many requests, no service, or a port that is not open.
_NOT_RUN = re.compile(r"^(?:429|503) |likely due to sandbox timeout")
_END = "\x1eend of the code\x1e"


class CloudSandbox:
    """A sandbox of one build. Use it from one thread; `close` it when done.

    `timings` says what creating it took, and until its code service answered, in seconds.
    """

    def __init__(
        self,
        cloud: Cloud,
        ref: str,
        *,
        metadata: Mapping[str, str],
        fresh: bool,
        warn: Callable[[str], None],
    ) -> None:
        """Create it and wait for its service. With `fresh`, code runs in a new interpreter, not in
        the one that the snapshot holds. Raises `SandboxError` and what `Cloud` raises; then it is
        closed."""
        self._cloud, self._warn = cloud, warn
        start = time.perf_counter()
        self._sandbox = cloud.create_sandbox(ref, seconds=_LIFE_SECONDS, metadata=metadata)
        self._ends = time.monotonic() + _LIFE_SECONDS
        self.timings = {"created": round(time.perf_counter() - start, 6)}
        self._context: Any = None
        self._held = contextlib.ExitStack()
        try:
            # Code that runs there must not keep an interrupted program from ending.
            self._held.enter_context(when_stopped(self._kill))
            self._wait_until_ready()
            self.timings["ready"] = round(time.perf_counter() - start, 6)
            if fresh:
                self._context = self._sandbox.create_code_context()
        except BaseException as error:
            self.close()
            if isinstance(error, Exception) and not isinstance(error, TemplateError):
                raise SandboxError(self._told(f"its code service fails: {error}")) from error
            raise

    def run(self, code: str, *, timeout: float) -> Execution:
        """Run statements for `timeout` seconds at most. Raises `SandboxError` when it is gone."""
        start = time.monotonic()
        try:
            if self._ends - start < timeout + _MARGIN_SECONDS:
                life = int(timeout) + 2 * _MARGIN_SECONDS
                self._sandbox.set_timeout(life)
                self._ends = start + life
            found = self._run(f"{code}\nprint({_END!r})", timeout)
        except e2b.TimeoutException as error:
            if time.monotonic() - start >= timeout:
                self._leave_it_running()
                return Execution(timed_out=True, seconds=time.monotonic() - start)
            raise SandboxError(self._told(str(error))) from error
        except Exception as error:
            raise SandboxError(self._told(f"{type(error).__name__}: {error}")) from error
        stdout, _, ended = "".join(found.logs.stdout).rpartition(_END)
        if not found.error and not ended:
            # The SDK says nothing of an interpreter that was killed, or ended itself.
            raise SandboxError(self._told("the interpreter died while it ran the code"))
        return Execution(
            stdout=stdout if ended else "".join(found.logs.stdout),
            stderr="".join(found.logs.stderr),
            error=f"{found.error.name}: {found.error.value}" if found.error else None,
            traceback=plain(found.error.traceback) if found.error else "",
            seconds=time.monotonic() - start,
        )

    def _run(self, code: str, timeout: float) -> Any:
        """Run code once: tried again only where the answer says that it did not run."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._sandbox.run_code(code, context=self._context, timeout=timeout)
            except Exception as error:
                if attempt == _ATTEMPTS or not _NOT_RUN.search(str(error)):
                    raise
            pause(_POLL_SECONDS * attempt)
        raise AssertionError("unreachable")

    def close(self) -> None:
        """End the sandbox; warn, with its ID, when that cannot be done."""
        self._held.close()
        self._kill()

    def _kill(self) -> None:
        sandbox_id = self._sandbox.sandbox_id
        try:
            self._cloud.kill_sandbox(sandbox_id)
        except TemplateError as error:
            left = max(0.0, self._ends - time.monotonic())
            self._warn(
                f"the sandbox {sandbox_id} could not be ended: {error.message};"
                f" E2B ends it by itself within {left:.0f} seconds"
            )

    def _leave_it_running(self) -> None:
        """Go on in a new interpreter: code that ran out of time may still hold the old one."""
        with contextlib.suppress(Exception):
            self._context = self._sandbox.create_code_context()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        looked = time.monotonic()
        while True:
            try:
                # The cheapest question that runs nothing: a first execution would fix the
                # interpreter's environment before its user has said what that is.
                self._sandbox.list_code_contexts()
            except Exception as error:
                if time.monotonic() > deadline:
                    raise SandboxError(
                        self._told(
                            f"its code service did not answer within {_READY_SECONDS:.0f}"
                            f" seconds: {error}"
                        ),
                        hint="is `service.command` what starts it?",
                    ) from error
                if time.monotonic() - looked > _LOOK_SECONDS:
                    looked = time.monotonic()
                    self._check_alive()
            else:
                return
            pause(_POLL_SECONDS)

    def _check_alive(self) -> None:
        alive = True
        with contextlib.suppress(Exception):
            alive = self._sandbox.is_running()
        if not alive:
            raise SandboxError(self._told("it ended before its code service was up"))

    def _told(self, text: str) -> str:
        return self._cloud.redacted(f"the sandbox {self._sandbox.sandbox_id}: {text}")
