"""Simulate E2B's webhooks, and deliver events to a receiver."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from builder.runtime import WebhookReceiver
from builder.webhooks.events import signature

SECRET = "a secret of thirty-two characters"  # noqa: S105 - nobody's


PAYLOAD: dict[str, Any] = {
    "id": "evt-1",
    "version": "v2",
    "type": "sandbox.lifecycle.killed",
    "timestamp": "2026-11-01T12:10:00Z",
    "event_category": "lifecycle",
    "event_label": "kill",
    "event_data": {
        "execution": {
            "started_at": "2026-11-01T12:00:00Z",
            "vcpu_count": 2,
            "memory_mb": 2048,
            "execution_time": 600_000,
        },
        "sandbox_metadata": {"someKey": "kept"},
    },
    "sandbox_id": "sbx1",
    "sandbox_execution_id": "exec1",
    "sandbox_template_id": "3xmp0rmfztawhlpysu4v",
    "sandbox_build_id": "b1",
    "sandbox_team_id": "t1",
}


def post(
    receiver: Any, body: bytes, *, path: str = "/", method: str = "POST", **headers: str
) -> httpx.Response:
    """Make a delivery over ASGI, signed unless a signature is given."""
    given_headers = {
        "e2b-signature": signature(SECRET, body),
        "e2b-signature-version": "v1",
        "e2b-delivery-id": "d1",
    } | {name.replace("_", "-"): value for name, value in headers.items()}

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=receiver)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.request(method, path, content=body, headers=given_headers)

    return asyncio.run(ask())


def delivered(receiver: Any, payload: dict[str, Any]) -> httpx.Response:
    return post(receiver, json.dumps(payload).encode())


@pytest.fixture
def receiver() -> WebhookReceiver:
    return WebhookReceiver(SECRET)


class Account:
    """The part of E2B's API for webhooks."""

    def __init__(self) -> None:
        self.hooks: dict[str, dict[str, Any]] = {}
        self.failures: list[int] = []
        self.application = Starlette(
            routes=[
                Route("/events/webhooks", self.all, methods=["GET", "POST"]),
                Route("/events/webhooks/{id}", self.one, methods=["GET", "PATCH", "DELETE"]),
            ]
        )

    async def all(self, request: Request) -> Response:
        if request.headers.get("x-api-key") != "e2b_key":
            return JSONResponse({"code": 401, "message": "Invalid API key"}, 401)
        if self.failures:
            return JSONResponse({"message": "later"}, self.failures.pop())
        if request.method == "GET":
            return JSONResponse([self.public(hook) for hook in self.hooks.values()])
        hook = {"id": f"w{len(self.hooks)}", **await request.json()}
        assert set(hook) == {"id", "name", "url", "enabled", "events", "signatureSecret"}
        self.hooks[hook["id"]] = hook
        return JSONResponse(self.public(hook), 201)

    async def one(self, request: Request) -> Response:
        hook = self.hooks.get(request.path_params["id"])
        if hook is None:
            return JSONResponse({"code": 404, "message": "webhook not found"}, 404)
        if request.method == "DELETE":
            del self.hooks[hook["id"]]
            return Response(status_code=204)
        if request.method == "PATCH":
            hook |= await request.json()
        return JSONResponse(self.public(hook))

    @staticmethod
    def public(hook: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in hook.items() if key != "signatureSecret"}


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    account = Account()
    server = uvicorn.Server(uvicorn.Config(account.application, port=0, log_level="critical"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    monkeypatch.setenv("E2B_API_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("E2B_API_KEY", "e2b_key")
    yield account
    server.should_exit = True
    thread.join()


def event(number: int, kind: str, at: float, **fields: Any) -> dict[str, Any]:
    """Return an event of sandbox `sandbox`, `at` seconds after noon."""
    moment = dt.datetime(2026, 11, 1, 12, tzinfo=dt.UTC) + dt.timedelta(seconds=at)
    execution = fields.pop("execution", None)
    return PAYLOAD | {
        "id": f"e{number}",
        "type": f"sandbox.lifecycle.{kind}",
        "timestamp": moment.isoformat(),
        "event_data": {"execution": execution} if execution else {},
        "sandbox_id": fields.get("sandbox", "s1"),
        "sandbox_template_id": fields.get("template", "3xmp0rmfztawhlpysu4v"),
    }


def execution(start: float, seconds: float) -> dict[str, Any]:
    moment = dt.datetime(2026, 11, 1, 12, tzinfo=dt.UTC) + dt.timedelta(seconds=start)
    return {
        "started_at": moment.isoformat(),
        "vcpu_count": 2,
        "memory_mb": 2048,
        "execution_time": seconds * 1000,
    }
