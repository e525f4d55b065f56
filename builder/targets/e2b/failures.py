"""What a failure that the SDK raises deserves."""

from __future__ import annotations

import re
from typing import Literal

import e2b
import httpx
import tenacity

from builder.errors import TemplateError

__all__ = ["LimitedError", "UnsettledError", "failure_of", "if_it_may_pass", "kind_of", "status_of"]

_STATUS = re.compile(r"(\d{3})\b")


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
    passing = (
        UnsettledError,
        e2b.ServiceBusyException,
        e2b.FileUploadException,
        e2b.TimeoutException,
        httpx.TransportError,
        OSError,
        # An answer that was cut off or is not what the API promises.
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    )
    if isinstance(error, passing) or type(error).__module__.startswith("pyqwest"):
        return "fault"
    status = status_of(error)
    return "fault" if status is not None and status >= 500 else "final"


def failure_of(state: tenacity.RetryCallState) -> BaseException:
    """What the last attempt of a call has raised."""
    found = state.outcome.exception() if state.outcome else None
    assert found is not None
    return found


if_it_may_pass = tenacity.retry_if_exception(lambda error: kind_of(error) != "final")
