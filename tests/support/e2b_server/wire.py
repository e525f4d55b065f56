"""The form of the responses."""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.support.e2b_server.state import ApiError

Handler = Callable[[Request, bytes], Response]


@dataclass(frozen=True, kw_only=True)
class Order:
    """How a list is sorted: by the fields with the time and the ID of its items."""

    time: str
    id: str
    ascends: bool = False
    ids_ascend: bool = False

    def sort(self, items: list[Any]) -> None:
        items.sort(key=lambda item: item[self.id], reverse=not self.ids_ascend)
        items.sort(key=self._time, reverse=not self.ascends)

    def _time(self, item: Any) -> dt.datetime:
        return dt.datetime.fromisoformat(item[self.time])

    def token(self, item: Any) -> str:
        """Return what a request sends to get the items after this one."""
        parts = [self._time(item).isoformat(), item[self.id], *(["asc"] if self.ascends else [])]
        return base64.urlsafe_b64encode("__".join(parts).encode()).decode()

    def after(self, items: list[Any], token: str) -> list[Any]:
        """Return the items after the one of a token."""
        try:
            time, last, *asc = base64.b64decode(token, b"-_", validate=True).decode().split("__")
            moment = dt.datetime.fromisoformat(time).astimezone(dt.UTC)
        except ValueError as error:
            raise ApiError(400, "Invalid next token") from error
        if asc != (["asc"] if self.ascends else []):
            raise ApiError(400, "Invalid next token")
        return [
            item
            for item in items
            if (
                (self._time(item) > moment) == self.ascends
                if self._time(item) != moment
                else item[self.id] != last and (item[self.id] > last) == self.ids_ascend
            )
        ]


def page(
    request: Request,
    items: list[Any],
    order: Order,
    whole: Callable[[list[Any]], Any] = list,
    headers: dict[str, str] | None = None,
) -> Response:
    """Return a page of a list; a header says what to ask the next one for."""
    limit, token = (
        int(request.query_params.get("limit", 100)),
        request.query_params.get("nextToken"),
    )
    order.sort(items)
    left = order.after(items, token) if token else items
    more = {"X-Next-Token": order.token(left[limit - 1])} if len(left) > limit else {}
    return JSONResponse(whole(left[:limit]), headers=(headers or {}) | more)
