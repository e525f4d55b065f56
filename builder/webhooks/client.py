"""The webhooks of an account on E2B: register, change and delete them."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import tenacity

from builder.errors import NetworkError, TargetUnavailableError, TemplateError, TemplateLookupError
from builder.project import target_here
from builder.system.documents import parse_json
from builder.targets.e2b.account import account_of
from builder.targets.e2b.certificates import certificates
from builder.webhooks.events import EVENTS, full_name
from builder.webhooks.ledger import Ledger

if TYPE_CHECKING:
    from builder.webhooks.receiver import WebhookReceiver

_PATH = "/events/webhooks"
_SECONDS = 30.0
_ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Webhook:
    """A webhook on E2B, without its secret, which E2B never returns."""

    id: str
    name: str
    url: str
    enabled: bool
    events: tuple[str, ...]


class E2BWebhookPrimitive:
    """The webhooks of one account. Events may be shortened, such as `created`."""

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
        """Set what `register` registers. Raises `ValueError` for an unknown event or without a key,
        and `TypeError` if `events` is not a list of names."""
        if isinstance(events, str) or not all(isinstance(event, str) for event in events):
            raise TypeError("events is a list of names, such as ['created', 'killed']")
        self.events = tuple(full_name(event) for event in events)
        if not self.events:
            raise ValueError("events is empty: name at least one event to deliver")
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
        """Return the webhooks of the account."""
        answer = await self._ask("GET", _PATH)
        if not isinstance(answer, list):
            raise NetworkError(f"E2B's answer is not a list of webhooks: {answer!r:.200}")
        return tuple(map(_webhook, answer))

    async def get(self, webhook_id: str) -> Webhook:
        """Return one webhook. Raises `TemplateLookupError` for an unknown ID."""
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
        """Change the given fields of a webhook."""
        body = {
            "events": None if events is None else [full_name(event) for event in events],
            "url": callback_url,
            "signatureSecret": secret,
            "name": name,
            "enabled": enabled,
        }
        changes = {key: value for key, value in body.items() if value is not None}
        return _webhook(await self._ask("PATCH", f"{_PATH}/{_id(webhook_id)}", changes))

    async def delete(self, webhook_id: str) -> None:
        """Delete a webhook. Raises `TemplateLookupError` for an unknown ID."""
        await self._ask("DELETE", f"{_PATH}/{_id(webhook_id)}")

    def receiver(self, *, ledger: Ledger | None = None) -> WebhookReceiver:
        """Return the application that receives the deliveries of this webhook."""
        from builder.webhooks.receiver import WebhookReceiver

        return WebhookReceiver(self._secret or "", ledger=ledger)

    async def _ask(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request to E2B's API, and retry it if it was refused or only reads."""
        # Without an answer, only requests that change nothing are repeated.
        harmless = httpx.TransportError if method == "GET" else httpx.ConnectError
        retrying = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(_ATTEMPTS),
            wait=tenacity.wait_incrementing(start=0.5, increment=0.5),
            retry=tenacity.retry_if_exception_type(harmless)
            | tenacity.retry_if_result(lambda answer: answer.status_code in (429, 503)),
            retry_error_callback=lambda state: state.outcome and state.outcome.result(),
        )
        try:
            async with httpx.AsyncClient(timeout=_SECONDS, verify=certificates()) as client:
                answer: httpx.Response = await retrying(
                    client.request,
                    method,
                    f"{self._origin}{path}",
                    headers={"X-API-Key": self._key},
                    **({} if body is None else {"json": body}),
                )
        except httpx.TransportError as error:
            raise NetworkError(self._masked(f"{method} {path} failed: {error}")) from error
        return self._value(answer, f"{method} {path}")

    def _value(self, answer: httpx.Response, doing: str) -> Any:
        text = self._masked(answer.text[:500])
        if answer.status_code in (401, 403):
            raise TargetUnavailableError(f"E2B refused the key for {doing}: {text}")
        if answer.status_code == 404:
            raise TemplateLookupError(f"E2B has no such webhook: {doing}: {text}")
        if not answer.is_success:
            raise TemplateError(f"{doing} was refused: {answer.status_code} {text}")
        if answer.status_code == 204:
            return None
        try:
            return parse_json(answer.content)
        except ValueError as error:
            raise NetworkError(f"the answer to {doing} cannot be read: {error}") from error

    def _masked(self, text: str) -> str:
        for secret in (self._key, self._secret):
            text = text.replace(secret, "<secret>") if secret else text
        return text


def _webhook(answer: Any) -> Webhook:
    try:
        return Webhook(
            id=answer["id"],
            name=answer.get("name") or "",
            url=answer["url"],
            enabled=bool(answer.get("enabled", True)),
            events=tuple(answer.get("events") or ()),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise NetworkError(f"E2B's answer is not a webhook: {error!r}") from error


def _id(webhook_id: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,128}", webhook_id):
        raise ValueError(f"{webhook_id!r} is not a webhook ID")
    return webhook_id
