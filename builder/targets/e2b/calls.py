"""How a call of E2B is made: tried again as its failure deserves, and what is left put into words.

Which calls there are is `cloud`'s to know.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

import e2b
import tenacity

from builder.errors import (
    BuildError,
    LimitError,
    NetworkError,
    TargetUnavailableError,
    TemplateError,
)
from builder.system.processes import pause
from builder.targets.e2b.account import Account
from builder.targets.e2b.failures import (
    LimitedError,
    failure_of,
    if_it_may_pass,
    is_foreign,
    kind_of,
    words_of,
)

__all__ = ["Calls"]

_T = TypeVar("_T")

# A limit lifts when other builds end, and a build may take an hour; a fault passes or it does not.
_LIMIT_SECONDS = 3600.0
_FAULT_ATTEMPTS = 7
# What takes long to fail is not tried as often: an address where nobody answers, above all.
_SLOW_ATTEMPTS = 3
_FAULT_SECONDS = 6.0
_LONGEST_FAULT_SECONDS = 60.0


class Calls:
    """Makes the calls for one account; `waiting` is told what keeps one waiting."""

    def __init__(
        self, account: Account, *, key_variable: str, waiting: Callable[[str], None] | None
    ) -> None:
        self._account, self._key_variable, self._waiting = account, key_variable, waiting

    def __call__(
        self,
        doing: str,
        call: Callable[[], _T],
        *,
        faults: int = _FAULT_ATTEMPTS,
        limit: float | None = None,
    ) -> _T:
        """Return what `call` returns in the end, which also reads the answer: one that cannot be
        read is a fault as any other. It is tried `faults` times, and meets a limit for `limit`
        seconds, an hour by default."""

        def give_up(state: tenacity.RetryCallState) -> bool:
            seconds = state.seconds_since_start or 0.0
            if kind_of(failure_of(state)) == "limit":
                return seconds > (limit or _LIMIT_SECONDS)
            slow = state.attempt_number >= _SLOW_ATTEMPTS and seconds > _FAULT_SECONDS
            return slow or seconds > _LONGEST_FAULT_SECONDS or state.attempt_number >= faults

        def delay(state: tenacity.RetryCallState) -> float:
            failure = failure_of(state)
            slow = kind_of(failure) == "limit"
            wait = tenacity.wait_random_exponential(
                multiplier=1 if slow else 0.2, max=15 if slow else 5, min=0.1
            )
            return wait(state) + (failure.seconds if isinstance(failure, LimitedError) else 0)

        def tell(state: tenacity.RetryCallState) -> None:
            failure = failure_of(state)
            slow = (state.seconds_since_start or 0.0) > _FAULT_SECONDS
            if self._waiting and (slow or kind_of(failure) == "limit"):
                self._waiting(self.redacted(f"waiting for E2B: {words_of(failure)}"))

        retrying = tenacity.Retrying(
            retry=if_it_may_pass,
            stop=give_up,
            wait=delay,
            sleep=pause,
            before_sleep=tell,
            reraise=True,
        )
        try:
            return retrying(call)
        except TemplateError:
            raise
        except Exception as error:
            raise self._translated(error, doing) from error

    def redacted(self, text: str) -> str:
        """`text` without the key, wherever that came from."""
        return text.replace(self._account.api_key, f"<{self._key_variable}>")

    def _translated(self, error: Exception, doing: str) -> TemplateError:
        said = self.redacted(words_of(error))
        if isinstance(error, e2b.FileUploadException):
            # The address of an upload is signed: who has it can write there.
            said = re.sub(r"(https?://[^/\s']+)[^\s']*", r"\1/…", said.splitlines()[0])
        if isinstance(error, e2b.AuthenticationException):
            return TargetUnavailableError(
                f"E2B refused the key in `{self._key_variable}`: {said}",
                hint=f"set `{self._key_variable}` to a key of the account",
            )
        if is_foreign(error):
            hint = f"is `{self._account.origin}` its address? if it is, run the same command again"
            return NetworkError(f"{doing} failed: {said}", hint=hint)
        kind = kind_of(error)
        if kind == "limit":
            return LimitError(
                f"{doing} was refused for too long: {said}",
                hint="wait for other builds to end, or ask E2B for a higher limit",
            )
        if kind == "fault":
            return NetworkError(
                f"{doing} failed: {said}",
                hint="run the same command again: it takes up what was begun",
            )
        return BuildError(f"{doing} was refused: {said}")
