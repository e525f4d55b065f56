"""The form of the responses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.support.e2b_server.state import ApiError

Handler = Callable[[Request, bytes], Response]


def page(request: Request, items: list[Any], whole: Callable[[list[Any]], Any] = list) -> Response:
    """Return a page of a list; a header says where the next one starts."""
    try:
        limit = int(request.query_params.get("limit", 100))
        start = int(request.query_params.get("nextToken") or 0)
    except ValueError as error:
        raise ApiError(400, "Invalid next token") from error
    if not 1 <= limit <= 100:
        raise ApiError(400, 'validation error: parameter "limit" in query has an error')
    more = {"X-Next-Token": str(start + limit)} if len(items) > start + limit else {}
    return JSONResponse(whole(items[start : start + limit]), headers=more)
