"""Receive the deliveries of E2B's webhooks."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Mapping

from builder.errors import TemplateError
from builder.registry.cached import names_by_id
from builder.system import telemetry
from builder.system.extras import needs
from builder.webhooks.events import Event, InvalidEventError, full_name, parse, signed
from builder.webhooks.ledger import Ledger

with needs("webhooks"):
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route
    from starlette.types import ExceptionHandler, Receive, Scope, Send

_logger = logging.getLogger(__name__)
_LONGEST_BODY = 1 << 20
_REMEMBERED = 10_000

Handler = Callable[[Event], Awaitable[None] | None]


class _Accepted(JSONResponse):
    """The answer to an event, which is handled afterwards."""

    def __init__(self, handling: Callable[[], asyncio.Task[None]]) -> None:
        super().__init__({"status": "accepted"})
        self._handling = handling

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            # Even if the answer did not arrive: the event counts as delivered from here on.
            await asyncio.shield(self._handling())


class WebhookReceiver:
    """An ASGI application that receives deliveries; mount it anywhere.

    Handlers run after the answer. `counts` counts deliveries by outcome: "accepted", "replayed",
    "forged", "oversized", "malformed", "handler failed", ….
    """

    def __init__(
        self, secret: str, *, ledger: Ledger | None = None, body_limit: int = _LONGEST_BODY
    ) -> None:
        """`body_limit` is in bytes. With a `ledger`, events are remembered across restarts."""
        if not isinstance(secret, str) or not secret.strip():
            raise ValueError("a receiver needs the `secret` that signs the deliveries, as text")
        self._secret, self._ledger, self._body_limit = secret, ledger, body_limit
        self._handlers: dict[str, list[Handler]] = {}
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._writing: dict[str, asyncio.Task[bool]] = {}
        self._handling: set[asyncio.Task[None]] = set()
        self.counts: Counter[str] = Counter()
        self._application = Starlette(
            routes=[Route("/{path:path}", self._answer, methods=["POST"])],
            exception_handlers={
                405: self._refusing("wrong method", 405),
                ClientDisconnect: self._refusing("truncated", 400),
            },
        )

    def on(self, event: str = "*") -> Callable[[Handler], Handler]:
        """Register a function, sync or async, to call with each such event; "*" is all."""
        if not isinstance(event, str):
            raise TypeError('name the event: @receiver.on("killed"), or @receiver.on() for all')
        name = event if event == "*" else full_name(event)

        def register(handler: Handler) -> Handler:
            self._handlers.setdefault(name, []).append(handler)
            return handler

        return register

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request or the lifespan, as an ASGI application."""
        await self._application(scope, receive, send)

    async def _answer(self, request: Request) -> JSONResponse:
        body = await self._body(request)
        if body is None:
            return self._refused("oversized", 413)
        version = request.headers.get("e2b-signature-version", "v1")
        if version != "v1":
            return self._refused("unknown signature version", 400)
        if not signed(self._secret, body, request.headers.get("e2b-signature", "")):
            return self._refused("forged", 401)
        try:
            event = parse(body, await run_in_threadpool(names_by_id))
        except InvalidEventError as error:
            _logger.warning("a delivery from E2B is malformed: %s", error)
            return self._refused("malformed", 400)
        try:
            first = await self._first_time(event)
        except TemplateError:
            _logger.exception("the event %s cannot be written to the ledger", event.id)
            return self._refused("ledger failed", 503)  # E2B delivers it again
        if not first:
            return self._refused("replayed", 200)  # or E2B would deliver it again
        self._count("accepted")
        return _Accepted(lambda: self._start_handling(event))

    async def _body(self, request: Request) -> bytes | None:
        parts: list[bytes] = []
        size = 0
        async for part in request.stream():
            size += len(part)
            if size > self._body_limit:
                return None
            parts.append(part)
        return b"".join(parts)

    async def _first_time(self, event: Event) -> bool:
        """Return whether the event is new, once it is stored.

        Deliveries of the same event that arrive meanwhile share the outcome of the first.
        """
        if event.id in self._seen:
            return False
        if self._ledger is None:
            self._remember(event)
            return True
        writing = self._writing.get(event.id)
        # A write in another event loop cannot be awaited here; the ledger decides which came first.
        if writing and writing.get_loop() is asyncio.get_running_loop():
            await asyncio.shield(writing)
            return False
        writing = self._writing[event.id] = asyncio.create_task(self._store(self._ledger, event))
        try:
            return await asyncio.shield(writing)
        except asyncio.CancelledError:
            # The write goes on, and E2B's next delivery of the event will be a replay.
            writing.add_done_callback(lambda done: self._handle_unanswered(event, done))
            raise

    async def _store(self, ledger: Ledger, event: Event) -> bool:
        try:
            first = await run_in_threadpool(ledger.add, event)
            self._remember(event)
            return first
        finally:
            if self._writing.get(event.id) is asyncio.current_task():
                del self._writing[event.id]

    def _remember(self, event: Event) -> None:
        self._seen[event.id] = None
        while len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)

    def _handle_unanswered(self, event: Event, writing: asyncio.Task[bool]) -> None:
        if not writing.cancelled() and not writing.exception() and writing.result():
            self._count("accepted")
            self._start_handling(event)

    def _start_handling(self, event: Event) -> asyncio.Task[None]:
        """Handle the event in its own task, which outlives the request."""
        task = asyncio.create_task(self._handle(event))
        self._handling.add(task)
        task.add_done_callback(self._handling.discard)
        return task

    async def _handle(self, event: Event) -> None:
        for handler in [*self._handlers.get(event.type, ()), *self._handlers.get("*", ())]:
            try:
                if inspect.iscoroutinefunction(handler):
                    await handler(event)
                else:
                    result = await run_in_threadpool(handler, event)
                    if inspect.isawaitable(result):
                        await result
            except (Exception, SystemExit):
                self._count("handler failed")
                _logger.exception("a handler of %s failed for event %s", event.type, event.id)

    def _refused(
        self, status: str, code: int, headers: Mapping[str, str] | None = None
    ) -> JSONResponse:
        self._count(status)
        return JSONResponse({"status": status}, status_code=code, headers=headers)

    def _refusing(self, status: str, code: int) -> ExceptionHandler:
        async def refuse(_request: Request, error: Exception) -> JSONResponse:
            return self._refused(status, code, getattr(error, "headers", None))

        return refuse

    def _count(self, status: str) -> None:
        self.counts[status] += 1
        telemetry.count(f"webhook {status}", {})
