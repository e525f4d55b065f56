"""How a call of E2B is made: tried again as its failure deserves, and what is left put into words.

Which calls there are is `cloud`'s to know.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

import e2b

from builder.errors import (
    BuildError,
    LimitError,
    NetworkError,
    TargetUnavailableError,
    TemplateError,
)
from builder.targets.e2b.account import Account
from builder.targets.e2b.failures import is_foreign, kind_of, says_no_address, words_of
from builder.targets.e2b.retries import OF_BUILDS, Patience

_T = TypeVar("_T")


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
        faults: int | None = None,
        limit: float | None = None,
    ) -> _T:
        """Return what `call` returns in the end, which also reads the answer: one that cannot be
        read is a fault as any other. It is tried `faults` times, and meets a limit for `limit`
        seconds."""
        with self.worded(doing):
            return self.patience(faults=faults, limit=limit).call(call)

    def patience(self, *, faults: int | None = None, limit: float | None = None) -> Patience:
        """How often, and how long, a call is tried."""

        def tell(failure: BaseException) -> None:
            if self._waiting:
                self._waiting(self.redacted(f"waiting for E2B: {words_of(failure)}"))

        return replace(
            OF_BUILDS,
            attempts=faults or OF_BUILDS.attempts,
            limit_seconds=limit or OF_BUILDS.limit_seconds,
            waiting=tell,
        )

    @contextlib.contextmanager
    def worded(self, doing: str) -> Iterator[None]:
        """Put what is raised in the `with` block into words."""
        try:
            yield
        except TemplateError:
            raise
        except Exception as error:
            raise self._translated(error, doing) from error

    def redacted(self, text: str) -> str:
        """`text` without the key, wherever that came from."""
        return text.replace(self._account.api_key, f"<{self._key_variable}>")

    def _translated(self, error: Exception, doing: str) -> TemplateError:
        reason = self.redacted(words_of(error))
        if isinstance(error, e2b.FileUploadException):
            # The address of an upload is signed: who has it can write there.
            reason = re.sub(r"(https?://[^/\s']+)[^\s']*", r"\1/…", reason.splitlines()[0])
        if isinstance(error, e2b.AuthenticationException):
            return TargetUnavailableError(
                f"E2B refused the key in `{self._key_variable}`: {reason}",
                hint=f"set `{self._key_variable}` to a key of the account",
            )
        if is_foreign(error):
            hint = f"is `{self._account.origin}` its address? if it is, run the same command again"
            return NetworkError(f"{doing} failed: {reason}", hint=hint)
        kind = kind_of(error)
        if kind == "limit":
            return LimitError(
                f"{doing} was refused for too long: {reason}",
                hint="wait for other builds to end, or ask E2B for a higher limit",
            )
        if kind == "fault":
            if says_no_address(error):
                reason += f" ({self._account.origin})"
            return NetworkError(
                f"{doing} failed: {reason}",
                hint="run the same command again: it takes up what was begun",
            )
        return BuildError(f"{doing} was refused: {reason}")
