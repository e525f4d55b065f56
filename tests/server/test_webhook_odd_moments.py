"""Webhooks: odd moments and odd arguments."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from builder.runtime import E2BWebhookPrimitive, WebhookReceiver
from builder.webhooks.ledger import Ledger
from tests.conftest import Command
from tests.support.webhooks import PAYLOAD, SECRET, delivered, post

pytestmark = pytest.mark.network


def run_event(name: str, number: int, **execution: Any) -> dict[str, Any]:
    return PAYLOAD | {
        "id": f"e{number}",
        "type": f"sandbox.lifecycle.{name}",
        "timestamp": f"2026-11-01T12:{number:02}:00Z",
        "event_data": {"execution": execution},
    }


def test_end_that_tells_an_earlier_start_ends_the_open_run(tmp_path: Path) -> None:
    """A sandbox that was paused, resumed and killed has two runs, whichever start the end tells."""
    ledger = Ledger(tmp_path / "usage.sqlite")
    receiver = WebhookReceiver(SECRET, ledger=ledger)
    first = {"started_at": "2026-11-01T12:00:00Z"}
    for event in (
        run_event("created", 0),
        run_event("paused", 10, **first, execution_time=600_000),
        run_event("resumed", 20),
        run_event("paused", 30, **first),
        run_event("killed", 31, **first),
    ):
        assert delivered(receiver, event).json()["status"] == "accepted"
    (found,) = ledger.usage()
    assert found.running == 0
    assert found.minutes == pytest.approx(20)


def test_half_character_in_an_event_is_malformed(tmp_path: Path) -> None:
    """An ID that cannot be written anywhere is refused, with and without a ledger."""
    for ledger in (None, Ledger(tmp_path / "usage.sqlite")):
        receiver = WebhookReceiver(SECRET, ledger=ledger)
        for key in ("id", "sandbox_id", "sandbox_template_id"):
            body = json.dumps(PAYLOAD | {key: "a\ud800"}).encode()
            assert post(receiver, body).status_code == 400


def test_handlers_run_when_the_answer_does_not_arrive() -> None:
    """An event that counts as delivered is handled, also when its sender has gone; a handler that
    wants to end the program does not."""
    receiver, seen = WebhookReceiver(SECRET), []

    @receiver.on()
    def stubborn(_event: Any) -> None:
        raise SystemExit(3)

    receiver.on()(lambda event: seen.append(event.id))
    from builder.webhooks.events import signature

    body = json.dumps(PAYLOAD).encode()
    headers = [(b"e2b-signature", signature(SECRET, body).encode())]
    scope = {"type": "http", "method": "POST", "path": "/", "headers": headers, "query_string": b""}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(_message: Any) -> None:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        asyncio.run(receiver(scope, receive, send))
    assert seen == ["evt-1"]
    assert receiver.counts["handler failed"] == 1


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


def test_secret_of_a_receiver_is_text() -> None:
    """A secret that signs nothing is refused, and a decorator without its event is explained."""
    for secret in ("", "  ", b"x", 3):
        with pytest.raises(ValueError, match="needs the `secret`"):
            WebhookReceiver(secret)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="name the event"):
        WebhookReceiver(SECRET).on(print)  # type: ignore[arg-type]


@pytest.mark.parametrize("days", ["999999999", "1e12", "inf", "nan"])
def test_days_beyond_time_are_refused(tmp_path: Path, command: Command, days: str) -> None:
    """A number of days that no calendar has is a usage error."""
    Ledger(tmp_path / "usage.sqlite").usage()
    done = command("usage", "--ledger", str(tmp_path / "usage.sqlite"), "--days", days)
    assert done.returncode == 64, done.stderr
    assert "Traceback" not in done.stderr


def test_usage_is_found_beside_the_receiver(tmp_path: Path, command: Command) -> None:
    """`usage` finds the ledger in the folder that the receiver ran in, project or not."""
    receiver = WebhookReceiver(SECRET, ledger=Ledger(tmp_path / ".builder" / "usage.sqlite"))
    assert delivered(receiver, PAYLOAD).status_code == 200
    done = command("usage", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "tmpl" in done.stdout or "sandboxes" in done.stdout
