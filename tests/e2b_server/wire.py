"""Requests and answers, checked against the shapes that E2B's description gives them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.e2b_server.state import ApiError

Handler = Callable[[Request, bytes], Response]


def fits(model: Any, value: dict[str, Any]) -> None:
    """Whether a value has the shape that E2B's description gives it, and nothing besides."""
    found = model.from_dict(value)
    if found.additional_properties:
        raise ValueError(f"{model.__name__} has no {', '.join(found.additional_properties)}")
    for key, text in found.to_dict().items():
        if key in value and type(value[key]) is not type(text):
            raise ValueError(f"{model.__name__}: {key} is {value[key]!r}")


def checked(model: Any, body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
        fits(model, value)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ApiError(400, f"Invalid request body: {error}") from error
    found: dict[str, Any] = value
    return found


def answer(model: Any, value: dict[str, Any], code: int) -> Response:
    fits(model, value)
    return JSONResponse(value, status_code=code)


def page(request: Request, items: list[Any], whole: Callable[[list[Any]], Any] = list) -> Response:
    """One page of a list, and in a header where the next one starts."""
    try:
        limit = int(request.query_params.get("limit", 100))
        start = int(request.query_params.get("nextToken") or 0)
    except ValueError as error:
        raise ApiError(400, "Invalid next token") from error
    if not 1 <= limit <= 100:
        raise ApiError(400, 'validation error: parameter "limit" in query has an error')
    more = {"X-Next-Token": str(start + limit)} if len(items) > start + limit else {}
    return JSONResponse(whole(items[start : start + limit]), headers=more)
