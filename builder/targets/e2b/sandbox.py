"""Sessions on E2B for verification: of one build, for as long as its checks take."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

import e2b

from builder.errors import BuildError, NetworkError, SandboxError, TemplateError
from builder.sandbox.blocking import BlockingSession
from builder.sandbox.execution import Execution
from builder.system.tasks import run_to_completion
from builder.targets.e2b.cloud import Cloud
from builder.targets.e2b.session import CloudSession

_LIFE_SECONDS = 900
_MARGIN_SECONDS = 120


def open_sandbox(
    cloud: Cloud, ref: str, *, metadata: Mapping[str, str], cold: bool, warn: Callable[[str], None]
) -> BlockingSession[CloudSession]:
    """Create a sandbox and wait for its service; `warn` is told of one that cannot be ended. When
    it is to be `cold`, code runs in a new interpreter, not in the one that the snapshot holds.

    Raises `SandboxError` and what `Cloud` raises; then nothing of it runs any more.
    """

    async def opening() -> CloudSession:
        start = time.perf_counter()
        sandbox, seconds = await cloud.create_sandbox(ref, seconds=_LIFE_SECONDS, metadata=metadata)
        session = _CheckedSession(sandbox, cloud=cloud, warn=warn, lifetime=seconds, start=start)
        try:
            await session.wait_until_ready()
            if cold:
                await session.service.renew()
        except BaseException:
            await run_to_completion(session.close())
            raise
        return session

    return BlockingSession(opening)


class _CheckedSession(CloudSession):
    """A session that lives as long as what runs in it; one that cannot be ended is told of."""

    def __init__(
        self,
        sandbox: e2b.AsyncSandbox,
        *,
        cloud: Cloud,
        warn: Callable[[str], None],
        lifetime: float,
        start: float,
    ) -> None:
        super().__init__(sandbox, redacted=cloud.redacted, lifetime=lifetime, start=start)
        self._cloud, self._warn = cloud, warn

    async def run(self, code: str, *, seconds: float, **options: Any) -> Execution:
        age = time.monotonic() - self.opened_at
        if self.lifetime - age < seconds + _MARGIN_SECONDS:
            life = int(seconds) + 2 * _MARGIN_SECONDS
            try:
                await asyncio.to_thread(self._cloud.extend_sandbox, self.id, life)
            except (BuildError, NetworkError) as error:
                raise SandboxError(self.worded(error.message)) from error
            self.lifetime = age + life
        return await super().run(code, seconds=seconds, **options)

    async def end(self) -> None:
        try:
            await asyncio.to_thread(self._cloud.kill_sandbox, self.id)
        except TemplateError as error:
            left = max(0.0, self.opened_at + self.lifetime - time.monotonic())
            self._warn(
                f"the sandbox {self.id} could not be ended: {error.message};"
                f" E2B ends it by itself within {left:.0f} seconds"
            )
