"""E2B's webhooks: registering them, and receiving what they deliver."""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse

from builder.errors import NetworkError, TargetUnavailableError, TemplateError, TemplateLookupError
from builder.project import target_here
from builder.registry.cached import names_by_id
from builder.system import telemetry
from builder.system.documents import parse_json
from builder.targets.e2b.account import account_of
from builder.targets.e2b.certificates import certificates
from builder.webhooks.events import (
    EVENTS,
    Event,
    InvalidEventError,
    full_name,
    parse,
    signed,
)
from builder.webhooks.ledger import Ledger

__all__ = ["E2BWebhookPrimitive", "Event", "Webhook", "WebhookReceiver"]

_logger = logging.getLogger(__name__)
_PATH = "/events/webhooks"
_SECONDS = 30.0
_ATTEMPTS = 3
_LONGEST_BODY = 1 << 20
_REMEMBERED = 10_000

Handler = Callable[[Event], Awaitable[None] | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Webhook:
    """A webhook as E2B has it; its secret is never told again."""

    id: str
    name: str
    url: str
    enabled: bool
    events: tuple[str, ...]


class E2BWebhookPrimitive:
    """The webhooks of one account. Events may be given short, as `created`."""

    def __init__(
        self,
        events: Collection[str] = EVENTS,
        callback_url: str | None = None,
        secret: str | None = None,
        *,
        name: str = "template-builder",
        api_key: str | None = None,
        target: str = "e2b",
    ) -> None:
        """What `register` registers. Raises `ValueError` for an event that there is not, and where
        no key is given or set."""
        if isinstance(events, str) or not all(isinstance(event, str) for event in events):
            raise TypeError("events is a list of names, such as ['created', 'killed']")
        self.events = tuple(full_name(event) for event in events)
        if not self.events:
            raise ValueError("events is empty: which ones are to be delivered?")
        self.callback_url, self.name = callback_url, name
        self._secret = secret
        owner = account_of(target_here(target), api_key)
        self._key, self._origin = owner.api_key, owner.origin

    async def register(self) -> Webhook:
        """Have E2B deliver `events` to `callback_url`, signed with `secret`."""
        if not self.callback_url or not self._secret:
            raise ValueError("a webhook needs a `callback_url` and a `secret` to sign with")
        body = {
            "name": self.name,
            "url": self.callback_url,
            "enabled": True,
            "events": list(self.events),
            "signatureSecret": self._secret,
        }
        return _webhook(await self._ask("POST", _PATH, body))

    async def list(self) -> tuple[Webhook, ...]:
        """The account's webhooks."""
        found = await self._ask("GET", _PATH)
        if not isinstance(found, list):
            raise NetworkError(f"E2B's answer is not a list of webhooks: {found!r:.200}")
        return tuple(_webhook(one) for one in found)

    async def get(self, webhook_id: str) -> Webhook:
        """One webhook. Raises `TemplateLookupError` for an ID that there is not."""
        return _webhook(await self._ask("GET", f"{_PATH}/{_id(webhook_id)}"))

    async def update(
        self,
        webhook_id: str,
        *,
        events: Collection[str] | None = None,
        callback_url: str | None = None,
        secret: str | None = None,
        name: str | None = None,
        enabled: bool | None = None,
    ) -> Webhook:
        """Change what is given, and leave the rest."""
        body = {
            "events": None if events is None else [full_name(event) for event in events],
            "url": callback_url,
            "signatureSecret": secret,
            "name": name,
            "enabled": enabled,
        }
        given = {key: value for key, value in body.items() if value is not None}
        return _webhook(await self._ask("PATCH", f"{_PATH}/{_id(webhook_id)}", given))

    async def delete(self, webhook_id: str) -> None:
        """Have E2B deliver no more. Raises `TemplateLookupError` for an ID that there is not."""
        await self._ask("DELETE", f"{_PATH}/{_id(webhook_id)}")

    def receiver(self, *, ledger: Ledger | None = None) -> WebhookReceiver:
        """What receives the deliveries of this webhook."""
        return WebhookReceiver(self._secret or "", ledger=ledger)

    async def _ask(self, method: str, path: str, body: Any = None) -> Any:
        """An answer of E2B's API; asked again where it was refused, or only reads."""
        async with httpx.AsyncClient(timeout=_SECONDS, verify=certificates()) as client:
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    answer = await client.request(
                        method,
                        f"{self._origin}{path}",
                        headers={"X-API-Key": self._key},
                        **({} if body is None else {"json": body}),
                    )
                except httpx.TransportError as error:
                    # After a lost answer only what changes nothing is asked again.
                    harmless = method == "GET" or isinstance(error, httpx.ConnectError)
                    if attempt == _ATTEMPTS or not harmless:
                        raise NetworkError(
                            self._told(f"{method} {path} failed: {error}")
                        ) from error
                else:
                    if answer.status_code not in (429, 503) or attempt == _ATTEMPTS:
                        return self._value(answer, f"{method} {path}")
                await asyncio.sleep(0.5 * attempt)
        raise AssertionError("unreachable")

    def _value(self, answer: httpx.Response, doing: str) -> Any:
        said = self._told(answer.text[:500])
        if answer.status_code in (401, 403):
            raise TargetUnavailableError(f"E2B refused the key for {doing}: {said}")
        if answer.status_code == 404:
            raise TemplateLookupError(f"E2B has no such webhook: {doing}: {said}")
        if not answer.is_success:
            raise TemplateError(f"{doing} was refused: {answer.status_code} {said}")
        if answer.status_code == 204:
            return None
        try:
            return parse_json(answer.content)
        except ValueError as error:
            raise NetworkError(f"the answer to {doing} cannot be read: {error}") from error

    def _told(self, text: str) -> str:
        for secret in (self._key, self._secret):
            text = text.replace(secret, "<secret>") if secret else text
        return text


class WebhookReceiver:
    """An ASGI application that receives deliveries; mount it anywhere.

    Handlers run after the answer. `counts` tells what became of the deliveries: "accepted",
    "replayed", "forged", "oversized", "malformed", "handler failed", ….
    """

    def __init__(
        self, secret: str, *, ledger: Ledger | None = None, body_limit: int = _LONGEST_BODY
    ) -> None:
        """`body_limit` is in bytes. With a `ledger`, events are remembered over restarts."""
        if not isinstance(secret, str) or not secret.strip():
            raise ValueError(
                "a receiver needs the `secret` that deliveries are signed with, as text"
            )
        self._secret, self._ledger, self._body_limit = secret, ledger, body_limit
        self._handlers: dict[str, list[Handler]] = {}
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._writing: dict[str, asyncio.Task[bool]] = {}
        self._handling: set[asyncio.Task[None]] = set()
        self.counts: Counter[str] = Counter()

    def on(self, event: str = "*") -> Callable[[Handler], Handler]:
        """Have the decorated function, sync or async, called with each event; "*" is every one."""
        if not isinstance(event, str):
            raise TypeError(
                'name the event: @receiver.on("killed"), or @receiver.on() for every one'
            )
        name = event if event == "*" else full_name(event)

        def register(handler: Handler) -> Handler:
            self._handlers.setdefault(name, []).append(handler)
            return handler

        return register

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """The ASGI application."""
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        if scope["type"] != "http":
            return
        try:
            answer, event = await self._answer(Request(scope, receive))
        except ClientDisconnect:
            self._count("truncated")
            return
        try:
            await answer(scope, receive, send)
        finally:
            # Also when the answer did not arrive: the event counts as delivered from here on.
            if event:
                await asyncio.shield(self._start_handling(event))

    async def _answer(self, request: Request) -> tuple[JSONResponse, Event | None]:
        """The answer, and the event where it is to be handled after that."""
        if request.method != "POST":
            return self._refused("wrong method", 405, {"Allow": "POST"}), None
        body = await self._body(request)
        if body is None:
            return self._refused("oversized", 413), None
        version = request.headers.get("e2b-signature-version", "v1")
        if version != "v1":
            return self._refused("unknown signature version", 400), None
        if not signed(self._secret, body, request.headers.get("e2b-signature", "")):
            return self._refused("forged", 401), None
        try:
            event = parse(body, await run_in_threadpool(names_by_id))
        except InvalidEventError as error:
            _logger.warning("a delivery of E2B is malformed: %s", error)
            return self._refused("malformed", 400), None
        try:
            first = await self._first_time(event)
        except TemplateError:
            _logger.exception("the event %s cannot be written to the ledger", event.id)
            return self._refused("ledger failed", 503), None  # E2B delivers it again
        if not first:
            # A success, or E2B would deliver it again.
            return self._told("replayed", 200), None
        return self._told("accepted", 200), event

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
        """Whether the event came for the first time; it counts as seen when it is stored.

        Deliveries of one event that come meanwhile share the outcome of the first.
        """
        if event.id in self._seen:
            return False
        if self._ledger is None:
            self._remember(event)
            return True
        writing = self._writing.get(event.id)
        # What another event loop writes cannot be awaited here; the ledger tells which came first.
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
        """Handle the event in a task of its own, which does not end with the request."""
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
                    found = await run_in_threadpool(handler, event)
                    if inspect.isawaitable(found):
                        await found
            except (Exception, SystemExit):
                self._count("handler failed")
                _logger.exception("a handler of %s failed for event %s", event.type, event.id)

    def _refused(
        self, why: str, status: int, headers: Mapping[str, str] | None = None
    ) -> JSONResponse:
        answer = self._told(why, status)
        answer.headers.update(headers or {})
        return answer

    def _told(self, what: str, status: int) -> JSONResponse:
        self._count(what)
        return JSONResponse({"status": what}, status_code=status)

    def _count(self, what: str) -> None:
        self.counts[what] += 1
        telemetry.count(f"webhook {what}", {})


def _webhook(found: Any) -> Webhook:
    try:
        return Webhook(
            id=found["id"],
            name=found.get("name") or "",
            url=found["url"],
            enabled=bool(found.get("enabled", True)),
            events=tuple(found.get("events") or ()),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise NetworkError(f"E2B's answer is not a webhook: {error!r}") from error


def _id(webhook_id: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,128}", webhook_id):
        raise ValueError(f"{webhook_id!r} is not the ID of a webhook")
    return webhook_id
