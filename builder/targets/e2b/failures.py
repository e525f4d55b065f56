"""Classify the failures of calls to E2B, and translate them into the project's errors."""

from __future__ import annotations

import ast
import contextlib
import re
from collections.abc import Iterator
from typing import Literal

import e2b
import httpx

from builder.errors import (
    BuildError,
    LimitError,
    NetworkError,
    TargetUnavailableError,
    TemplateError,
)
from builder.targets.e2b.account import Account

_STATUS = re.compile(r"(\d{3})\b")
_BYTES = re.compile(r"(\d{3}): (b(['\"]).*\3)", re.DOTALL)
_LONGEST_TEXT = 500
NO_ROUTE = "no matching operation was found"
# The SDK's messages for a response that it does not know.
_UNKNOWN = re.compile(r"Body of the request is None|Failed to (assign|get|request) ")


class ForeignResponseError(Exception):
    """The response does not come from E2B's API."""


class AbsentError(e2b.TemplateException):
    """E2B does not have the requested object."""


class ForbiddenError(e2b.TemplateException):
    """The key has no access."""


class LimitedError(e2b.RateLimitException):
    """A limit, to be tried again after `seconds`."""

    seconds = 0


class UnsettledError(Exception):
    """A refusal that may not hold for the next attempt."""


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status that the text of an exception of the SDK begins with."""
    status = _STATUS.match(str(error))
    return int(status[1]) if status else None


def kind_of(error: BaseException) -> Literal["limit", "fault", "final"]:
    """Tell whether to wait ("limit"), to try again ("fault") or to give up ("final")."""
    if isinstance(error, TemplateError) or not isinstance(error, Exception):
        return "final"
    if isinstance(error, e2b.RateLimitException):
        return "limit"
    if isinstance(error, e2b.AuthenticationException | e2b.InvalidArgumentException):
        return "final"
    if NO_ROUTE in str(error):
        return "final"  # not the address of E2B's API
    transient = (
        UnsettledError,
        e2b.ServiceBusyException,
        e2b.FileUploadException,
        e2b.TimeoutException,
        httpx.TransportError,
        OSError,
    )
    if (
        isinstance(error, transient)
        or is_foreign(error)
        or type(error).__module__.startswith("pyqwest")
    ):
        return "fault"
    status = status_of(error)
    return "fault" if status is not None and status >= 500 else "final"


def is_foreign(error: BaseException) -> bool:
    """Return True if a response was cut off, or is not what E2B's API promises."""
    if isinstance(
        error, ForeignResponseError | ValueError | LookupError | TypeError | AttributeError
    ):
        return True
    text, status = str(error), status_of(error) or 0
    # If a refusal is not JSON, the SDK quotes its bytes.
    refused = 400 <= status < 500 and _BYTES.match(text) is not None
    other = _UNKNOWN.match(text) is not None or NO_ROUTE in text
    return refused or 300 <= status < 400 or other


def words_of(error: BaseException) -> str:
    """Return the message of a failure, without the notation of Python and the SDK."""
    text = str(error)
    if quoted := _BYTES.fullmatch(text):
        content = ast.literal_eval(quoted[2]).decode("utf-8", "replace")[:_LONGEST_TEXT].strip()
        text = f"{quoted[1]}: {content}" if content else quoted[1]
    if not is_foreign(error):
        return text or type(error).__name__
    response = f": {text}" if status_of(error) else ""
    return f"the response is not from E2B's API{response}"


@contextlib.contextmanager
def translating(doing: str, account: Account) -> Iterator[None]:
    """Translate what the `with` block raises while `doing` something."""
    try:
        yield
    except Exception as error:
        if isinstance(error, TemplateError):
            raise
        raise translated(error, doing, account) from error


def translated(error: Exception, doing: str, account: Account) -> TemplateError:
    """Return the error for a failure of the SDK while `doing` something."""
    reason = account.redacted(words_of(error))
    if isinstance(error, e2b.FileUploadException):
        # The address of an upload is signed: anyone who has it can write there.
        reason = re.sub(r"(https?://[^/\s']+)[^\s']*", r"\1/…", reason.splitlines()[0])
    if isinstance(error, e2b.AuthenticationException):
        hint = f"set `{account.key_variable}` to a key of the account"
        if status_of(error) == 403:
            hint = f"ask E2B why, or set `{account.key_variable}` to a key of another account"
        return TargetUnavailableError(
            f"E2B refused the key of target `{account.target}`: {reason}", hint=hint
        )
    if is_foreign(error):
        hint = f"is `{account.origin}` the address of the API? if it is, run the same command again"
        return NetworkError(f"{doing} failed: {reason}", hint=hint)
    kind = kind_of(error)
    if kind == "limit":
        return LimitError(
            f"{doing} was refused for too long: {reason}",
            hint="wait for builds and sandboxes to end, or ask E2B for a higher limit",
        )
    if kind == "fault":
        if isinstance(error, httpx.ConnectError):  # which does not name the address
            reason += f" ({account.origin})"
        hint = "run the same command again: it continues where this one stopped"
        return NetworkError(f"{doing} failed: {reason}", hint=hint)
    return BuildError(f"{doing} was refused: {reason}")
