"""The one policy of retries: which calls of E2B are repeated, how often, and for how long."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import tenacity

from builder.system.processes import pause
from builder.targets.e2b.failures import LimitedError, kind_of

_T = TypeVar("_T")
_SLOW_SECONDS = 6.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How often and how long to try a call.

    After a fault: up to `attempts` times, `slow_attempts` if they are slow to fail (as at an
    address where nothing listens), and not after `fault_seconds`. At a limit: for `limit_seconds`,
    with pauses that grow from `limit_step` to `limit_pause` seconds. `waiting` receives the
    failures that take long.
    """

    attempts: int
    slow_attempts: int
    fault_seconds: float
    limit_seconds: float
    limit_step: float
    limit_pause: float
    waiting: Callable[[BaseException], None] | None = None

    def call(self, call: Callable[[], _T]) -> _T:
        """Return the result of `call`. Raises its last error, or `InterruptedRunError`."""
        return tenacity.Retrying(sleep=pause, **self._options)(call)

    async def wait_for(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Await the result of `call`. Raises its last error."""

        async def attempt() -> _T:
            return await call()

        return await tenacity.AsyncRetrying(**self._options)(attempt)

    @property
    def _options(self) -> dict[str, Any]:
        return {
            "retry": tenacity.retry_if_exception(lambda error: kind_of(error) != "final"),
            "stop": self._gives_up,
            "wait": self._seconds_before,
            "before_sleep": self._tell,
            "reraise": True,
        }

    def _gives_up(self, state: tenacity.RetryCallState) -> bool:
        seconds = state.seconds_since_start or 0.0
        if kind_of(_failure_of(state)) == "limit":
            return seconds > self.limit_seconds
        slow = seconds > _SLOW_SECONDS and state.attempt_number >= self.slow_attempts
        return slow or seconds > self.fault_seconds or state.attempt_number >= self.attempts

    def _seconds_before(self, state: tenacity.RetryCallState) -> float:
        failure = _failure_of(state)
        step, longest = 0.2, 5.0
        if kind_of(failure) == "limit":
            step, longest = self.limit_step, self.limit_pause
        wait = tenacity.wait_random_exponential(multiplier=step, max=longest, min=0.1)
        return wait(state) + (failure.seconds if isinstance(failure, LimitedError) else 0)

    def _tell(self, state: tenacity.RetryCallState) -> None:
        failure = _failure_of(state)
        slow = (state.seconds_since_start or 0.0) > _SLOW_SECONDS
        if self.waiting and (slow or kind_of(failure) == "limit"):
            self.waiting(failure)


# A limit is lifted when other builds end, and a build may take an hour.
OF_BUILDS = Patience(
    attempts=7, slow_attempts=3, fault_seconds=60, limit_seconds=3600, limit_step=1, limit_pause=15
)
# A caller is waiting for the result of an execution.
OF_APPLICATIONS = Patience(
    attempts=5,
    slow_attempts=5,
    fault_seconds=float("inf"),
    limit_seconds=60,
    limit_step=0.2,
    limit_pause=5,
)


def _failure_of(state: tenacity.RetryCallState) -> BaseException:
    failure = state.outcome.exception() if state.outcome else None
    assert failure is not None
    return failure
