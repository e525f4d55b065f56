"""A sandbox on E2B whose code runs through its code service."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping

from builder.errors import BuildError, NetworkError, SandboxError, TemplateError
from builder.sandbox.execution import Execution
from builder.system.processes import when_stopped
from builder.targets.e2b.cloud import Cloud
from builder.targets.e2b.service import CodeService

__all__ = ["CloudSandbox"]

_LIFE_SECONDS = 900
_MARGIN_SECONDS = 120


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
        self._held = contextlib.ExitStack()
        self._runner = self._held.enter_context(asyncio.Runner())
        self._service = CodeService(self._sandbox, alive=self._alive, worded=self._worded)
        self._held.callback(lambda: self._runner.run(self._service.close()))
        try:
            # Code that runs there must not keep an interrupted program from ending.
            self._held.enter_context(when_stopped(self._kill))
            self._runner.run(self._service.wait_until_ready())
            self.timings["ready"] = round(time.perf_counter() - start, 6)
            if fresh:
                self._runner.run(self._service.renew())
        except BaseException:
            self.close()
            raise

    def run(self, code: str, *, timeout: float) -> Execution:
        """Run statements for `timeout` seconds at most. Raises `SandboxError` when it is gone."""
        start = time.monotonic()
        if self._ends - start < timeout + _MARGIN_SECONDS:
            life = int(timeout) + 2 * _MARGIN_SECONDS
            try:
                self._cloud.extend_sandbox(self._sandbox, life)
            except (BuildError, NetworkError) as error:
                raise SandboxError(self._worded(error.message)) from error
            self._ends = start + life
        return self._runner.run(self._service.run(code, seconds=timeout, variables={}, limit=None))

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

    async def _alive(self) -> bool:
        with contextlib.suppress(Exception):
            return await asyncio.to_thread(self._sandbox.is_running)
        return True

    def _worded(self, text: str) -> str:
        return self._cloud.redacted(f"the sandbox {self._sandbox.sandbox_id}: {text}")
