from __future__ import annotations

import asyncio
import base64
import datetime as dt
import hashlib
import json
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.routing import Mount

from builder.runtime import Event, Ledger, WebhookReceiver
from builder.webhooks.events import signature
from tests.support.webhooks import PAYLOAD, SECRET, delivered, post

OLDER = {
    "id": "evt-2",
    "version": "v1",
    "type": "sandbox.lifecycle.killed",
    "timestamp": "2026-11-01T12:10:00+00:00",
    "eventData": {
        "execution": {
            "startedAt": "2026-11-01T12:00:00Z",
            "vcpuCount": 2,
            "memoryMb": 2048,
            "executionTime": 600_000,
        }
    },
    "sandboxId": "sbx2",
    "sandboxTemplateId": "another",
    "sandboxBuildId": "b2",
}


def test_signature_is_e2bs() -> None:
    """A signature is base64 of SHA-256 of the secret and the body, without padding."""
    digest = hashlib.sha256(SECRET.encode() + b"{}").digest()
    assert signature(SECRET, b"{}") == base64.b64encode(digest).decode().rstrip("=")


@pytest.mark.parametrize("payload", [PAYLOAD, OLDER])
def test_event_reaches_its_handlers(receiver: WebhookReceiver, payload: dict[str, Any]) -> None:
    """Both spellings of a payload come out as one event, for handlers of either kind; a template
    ID comes out as the registry's name where it has one."""
    found: list[Event] = []

    @receiver.on("killed")
    def sync(event: Event) -> None:
        found.append(event)

    @receiver.on("*")
    async def every(event: Event) -> None:
        found.append(event)

    @receiver.on("sandbox.lifecycle.created")
    def other(event: Event) -> None:
        raise AssertionError

    assert delivered(receiver, payload).status_code == 200
    first, second = found
    assert first is second
    assert first.name == "killed"
    assert first.at == dt.datetime(2026, 11, 1, 12, 10, tzinfo=dt.UTC)
    assert first.started_at == dt.datetime(2026, 11, 1, 12, tzinfo=dt.UTC)
    assert (first.seconds, first.cpus, first.memory_mb) == (600.0, 2, 2048)
    assert first.template == {"evt-1": "tta-ml-minimal", "evt-2": None}[first.id]
    assert first.sandbox_id.startswith("sbx")
    assert receiver.counts == {"accepted": 1}


def test_unknown_version_is_understood(receiver: WebhookReceiver) -> None:
    """A payload of a version to come is taken for what is known of it."""
    payload = PAYLOAD | {
        "version": "v9",
        "new_field": {"deep": [1]},
        "type": "sandbox.lifecycle.new",
    }
    assert delivered(receiver, payload).json() == {"status": "accepted"}


@pytest.mark.parametrize("alphabet", ["standard", "url-safe", "padded"])
def test_either_alphabet_of_a_signature(receiver: WebhookReceiver, alphabet: str) -> None:
    """Signatures are accepted in both alphabets of base64, with and without padding."""
    for number in range(20):
        body = json.dumps(PAYLOAD | {"id": f"evt-{alphabet}-{number}"}).encode()
        text = signature(SECRET, body)
        if alphabet == "url-safe":
            text = text.translate(str.maketrans("+/", "-_"))
        if alphabet == "padded":
            text += "=" * (-len(text) % 4)
        assert post(receiver, body, e2b_signature=text).status_code == 200


@pytest.mark.parametrize(
    ("change", "status", "what"),
    [
        (
            {"e2b_signature": signature("another secret", json.dumps(PAYLOAD).encode())},
            401,
            "forged",
        ),
        ({"e2b_signature": ""}, 401, "forged"),
        ({"e2b_signature": "not base64 !"}, 401, "forged"),
        ({"e2b_signature_version": "v2"}, 400, "unknown signature version"),
        ({"method": "GET"}, 405, "wrong method"),
    ],
)
def test_refused(receiver: WebhookReceiver, change: dict[str, str], status: int, what: str) -> None:
    """What is not E2B's is refused with the right status, counted, and reaches no handler."""
    receiver.on()(lambda event: pytest.fail(str(event)))
    answer = post(receiver, json.dumps(PAYLOAD).encode(), **change)
    assert (answer.status_code, answer.json()) == (status, {"status": what})
    assert receiver.counts == {what: 1}


def test_truncated_body_is_refused(receiver: WebhookReceiver) -> None:
    """A body that lost its end does not have its signature any more."""
    body = json.dumps(PAYLOAD).encode()
    assert post(receiver, body[:-10], e2b_signature=signature(SECRET, body)).status_code == 401


def test_oversized_body_is_not_read(receiver: WebhookReceiver) -> None:
    """Beyond the limit a body is not kept, whatever its signature."""
    small = WebhookReceiver(SECRET, body_limit=1000)
    assert post(small, b"x" * 1001).status_code == 413
    assert post(small, b"x" * 1000).status_code == 400
    assert small.counts == {"oversized": 1, "malformed": 1}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"\xff",
        b"{" * 10_000,
        b"[" * 100_000,
        json.dumps(PAYLOAD | {"id": None}).encode(),
        json.dumps(PAYLOAD | {"id": "x" * 300}).encode(),
        json.dumps(PAYLOAD | {"timestamp": "yesterday"}).encode(),
        json.dumps(PAYLOAD | {"timestamp": "0001-01-01T00:00:00+23:59"}).encode(),
        json.dumps(PAYLOAD | {"event_data": {"execution": {"execution_time": "long"}}}).encode(),
        json.dumps(PAYLOAD | {"event_data": {"execution": {"vcpu_count": -1}}}).encode(),
        json.dumps(PAYLOAD | {"event_data": {"execution": {"memory_mb": 1e308}}}).encode(),
    ],
)
def test_malformed_body_is_refused(receiver: WebhookReceiver, body: bytes) -> None:
    """A signed body that is no event is refused, and nothing is raised."""
    assert post(receiver, body).status_code == 400
    assert receiver.counts == {"malformed": 1}


@pytest.mark.slow
@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from([*PAYLOAD, "execution", "started_at"]), inner)
        ),
        max_leaves=20,
    ).map(lambda value: json.dumps(value).encode())
    | st.dictionaries(st.sampled_from(list(PAYLOAD)), st.text() | st.integers()).map(
        lambda changed: json.dumps(PAYLOAD | changed).encode()
    )
)
def test_any_body_gets_an_answer(body: bytes) -> None:
    """Whatever is signed, the answer is one of the known ones."""
    assert post(WebhookReceiver(SECRET), body).status_code in (200, 400)


def test_replayed_event_is_dropped(receiver: WebhookReceiver) -> None:
    """An event that was delivered before is answered with success, and reaches no handler again."""
    seen: list[str] = []
    receiver.on()(lambda event: seen.append(event.id))
    answers = [delivered(receiver, PAYLOAD).json()["status"] for _ in range(3)]
    assert answers == ["accepted", "replayed", "replayed"]
    assert seen == ["evt-1"]


def test_handler_that_fails_stops_no_other(
    receiver: WebhookReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer is given before handlers run; one that fails is logged, and the others run."""
    seen: list[str] = []

    @receiver.on()
    def bad(event: Event) -> None:
        raise RuntimeError("no")

    receiver.on()(lambda event: seen.append(event.id))
    assert delivered(receiver, PAYLOAD).status_code == 200
    assert seen == ["evt-1"]
    assert receiver.counts == {"accepted": 1, "handler failed": 1}
    assert "a handler of sandbox.lifecycle.killed failed for event evt-1" in caplog.text


def test_receiver_is_mounted_anywhere(receiver: WebhookReceiver) -> None:
    """The receiver is an ASGI application, below a path of another one, too."""
    application = Starlette(routes=[Mount("/hooks/e2b", app=receiver)])
    body = json.dumps(PAYLOAD).encode()
    assert post(application, body, path="/hooks/e2b/").status_code == 200


def test_answers_before_slow_handlers(receiver: WebhookReceiver) -> None:
    """Over a real server the answer does not wait for the handlers."""
    done = threading.Event()

    @receiver.on()
    async def slow(event: Event) -> None:
        await asyncio.sleep(1.0)
        done.set()

    server = uvicorn.Server(uvicorn.Config(receiver, port=0, log_level="critical"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    body = json.dumps(PAYLOAD).encode()
    headers = {"e2b-signature": signature(SECRET, body)}
    answer = httpx.post(f"http://127.0.0.1:{port}/", content=body, headers=headers)
    assert answer.status_code == 200
    assert not done.is_set()
    server.should_exit = True
    thread.join()
    assert done.is_set()


@pytest.mark.network
def test_half_character_in_an_event_is_malformed(tmp_path: Path) -> None:
    """An ID that cannot be written anywhere is refused, with and without a ledger."""
    for ledger in (None, Ledger(tmp_path / "usage.sqlite")):
        receiver = WebhookReceiver(SECRET, ledger=ledger)
        for key in ("id", "sandbox_id", "sandbox_template_id"):
            body = json.dumps(PAYLOAD | {key: "a\ud800"}).encode()
            assert post(receiver, body).status_code == 400


@pytest.mark.network
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


@pytest.mark.network
def test_secret_of_a_receiver_is_text() -> None:
    """A secret that signs nothing is refused, and a decorator without its event is explained."""
    for secret in ("", "  ", b"x", 3):
        with pytest.raises(ValueError, match="needs the `secret`"):
            WebhookReceiver(secret)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="name the event"):
        WebhookReceiver(SECRET).on(print)  # type: ignore[arg-type]
