"""Webhooks that are registered, listed and removed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from builder.errors import TargetUnavailableError, TemplateLookupError
from builder.runtime import E2BWebhookPrimitive
from builder.webhooks.events import EVENTS
from tests.support.webhooks import SECRET, Account


def test_webhooks_are_managed(account: Account) -> None:
    """A webhook is registered, listed, changed and deleted; what is not given stays."""

    async def run() -> None:
        hook = E2BWebhookPrimitive(["created", "sandbox.killed"], "https://here/e2b", SECRET)
        account.failures = [429]
        made = await hook.register()
        assert account.hooks["w0"]["signatureSecret"] == SECRET
        assert made.events == ("sandbox.lifecycle.created", "sandbox.lifecycle.killed")
        assert await hook.list() == (made,)
        changed = await hook.update(made.id, events=["paused"], enabled=False)
        assert (changed.events, changed.enabled) == (("sandbox.lifecycle.paused",), False)
        assert changed.url == "https://here/e2b"
        assert await hook.get(made.id) == changed
        await hook.delete(made.id)
        with pytest.raises(TemplateLookupError, match="webhook not found"):
            await hook.get(made.id)

    asyncio.run(run())


def test_webhook_mistakes(account: Account) -> None:
    """Wrong events, IDs, keys and missing parts are told before or as E2B tells them."""
    with pytest.raises(ValueError, match="E2B has no event 'code_executed' \\(there are: created"):
        E2BWebhookPrimitive(["code_executed"])
    with pytest.raises(ValueError, match="did you mean `killed`"):
        E2BWebhookPrimitive(["kiled"])
    assert E2BWebhookPrimitive().events == EVENTS
    with pytest.raises(ValueError, match="needs a `callback_url` and a `secret`"):
        asyncio.run(E2BWebhookPrimitive(callback_url="https://here").register())
    with pytest.raises(ValueError, match="is not a webhook ID"):
        asyncio.run(E2BWebhookPrimitive().get("../templates"))
    with pytest.raises(TargetUnavailableError) as caught:
        asyncio.run(E2BWebhookPrimitive(api_key="e2b_wrong").list())
    assert "e2b_wrong" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"events": "created"}, TypeError),
        ({"events": []}, ValueError),
        ({"events": [3]}, TypeError),
    ],
)
def test_events_of_a_webhook_are_names(options: Any, kind: type[Exception]) -> None:
    """What is no list of events is told as that."""
    with pytest.raises(kind):
        E2BWebhookPrimitive(api_key="e2b_x", **options)


@pytest.mark.parametrize("webhook_id", ["..", "a/b", "\r", "\0", "x" * 1000, ""])
def test_id_of_a_webhook_is_one(webhook_id: str) -> None:
    """What cannot be an ID is never sent as a part of an address."""
    with pytest.raises(ValueError, match="is not a webhook ID"):
        asyncio.run(E2BWebhookPrimitive(api_key="e2b_x").get(webhook_id))
