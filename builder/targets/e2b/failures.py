"""What a failure that the SDK raises deserves, and what it says."""

from __future__ import annotations

import ast
import re
from typing import Literal

import e2b
import httpx

from builder.errors import TemplateError

_STATUS = re.compile(r"(\d{3})\b")
_BYTES = re.compile(r"(\d{3}): (b(['\"]).*\3)", re.DOTALL)
_LONGEST_TEXT = 500
_NO_ROUTE = "no matching operation was found"
# What the SDK says of an answer that is none of those that it knows.
_UNKNOWN = re.compile(r"Body of the request is None|Failed to (assign|get|request) ")


class ForeignAnswerError(Exception):
    """An answer that is not one of E2B's API."""


class LimitedError(e2b.RateLimitException):
    """A limit that E2B says not to meet again for `seconds`."""

    seconds = 0


class UnsettledError(Exception):
    """A call was refused, and the refusal says nothing of the next attempt."""


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an exception of the SDK tells of, in its text."""
    found = _STATUS.match(str(error))
    return int(found[1]) if found else None


def kind_of(error: BaseException) -> Literal["limit", "fault", "final"]:
    """To be waited out, to be tried again, or to be told."""
    if isinstance(error, TemplateError) or not isinstance(error, Exception):
        return "final"
    if isinstance(error, e2b.RateLimitException):
        return "limit"
    if isinstance(error, e2b.AuthenticationException | e2b.InvalidArgumentException):
        return "final"
    if _NO_ROUTE in str(error):
        return "final"  # the address of E2B's API is another one
    passing = (
        UnsettledError,
        e2b.ServiceBusyException,
        e2b.FileUploadException,
        e2b.TimeoutException,
        httpx.TransportError,
        OSError,
    )
    if (
        isinstance(error, passing)
        or is_foreign(error)
        or type(error).__module__.startswith("pyqwest")
    ):
        return "fault"
    status = status_of(error)
    return "fault" if status is not None and status >= 500 else "final"


def is_foreign(error: BaseException) -> bool:
    """Whether an answer was cut off, or is not what E2B's API promises."""
    if isinstance(
        error, ForeignAnswerError | ValueError | LookupError | TypeError | AttributeError
    ):
        return True
    text, status = str(error), status_of(error) or 0
    # Of a refusal that is no JSON the SDK tells the bytes.
    refused = 400 <= status < 500 and _BYTES.match(text) is not None
    other = _UNKNOWN.match(text) is not None or _NO_ROUTE in text
    return refused or 300 <= status < 400 or other


def is_absent(error: BaseException) -> bool:
    """Whether E2B says that there is no such thing."""
    return status_of(error) == 404 and not is_foreign(error)


def says_no_address(error: BaseException) -> bool:
    """Whether a connection could not be made, and the failure does not say where to."""
    return isinstance(error, httpx.ConnectError)


def words_of(error: BaseException) -> str:
    """What a failure says, without the forms that Python and the SDK have for it."""
    text = str(error)
    if written := _BYTES.fullmatch(text):
        content = ast.literal_eval(written[2]).decode("utf-8", "replace")[:_LONGEST_TEXT].strip()
        text = f"{written[1]}: {content}" if content else written[1]
    if not is_foreign(error):
        return text or type(error).__name__
    answer = f": {text}" if status_of(error) else ""
    return f"the answer is not one of E2B's API{answer}"
