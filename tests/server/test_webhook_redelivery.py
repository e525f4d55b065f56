from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from builder.runtime import Event, Ledger, WebhookReceiver
from builder.webhooks import ledger
from builder.webhooks.events import signature
from tests.support.webhooks import PAYLOAD, SECRET, delivered


class Place:
    """A receiver with a ledger, the events that its handler got, and how to keep the ledger busy."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ledger = Ledger(path)
        self.ledger.usage()  # makes the file
        self.receiver = WebhookReceiver(SECRET, ledger=self.ledger)
        self.handled: list[str] = []
        self.receiver.on()(lambda event: self.handled.append(event.id))

    @contextlib.contextmanager
    def busy(self) -> Iterator[sqlite3.Connection]:
        """Another program writes to the ledger, until it is rolled back or the block ends."""
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield other

    @contextlib.asynccontextmanager
    async def waiting(self, deliveries: int) -> AsyncIterator[list[asyncio.Task[httpx.Response]]]:
        """Deliveries of one event, the first of which waits for the ledger."""
        body = json.dumps(PAYLOAD).encode()
        headers = {"e2b-signature": signature(SECRET, body)}
        transport = httpx.ASGITransport(app=self.receiver)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            tasks = []
            for _ in range(deliveries):
                tasks.append(asyncio.create_task(client.post("/", content=body, headers=headers)))
                while not self.receiver._writing:
                    await asyncio.sleep(0)
            yield tasks

    async def forget(self) -> None:
        """Nothing is written or handled any more."""
        while self.receiver._writing:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0)  # what is to be done when the write has ended
        while self.receiver._handling:
            await asyncio.sleep(0.01)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "usage.sqlite")


def rows(place: Place) -> list[Any]:
    with contextlib.closing(sqlite3.connect(place.path)) as database:
        return database.execute("SELECT id FROM events").fetchall()


def test_redelivery_shares_the_failure_of_the_first(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While an event waits for the ledger a redelivery is not yet a replay: when the write fails,
    E2B is asked to deliver again in both answers, and then the event is stored and handled."""
    monkeypatch.setattr(ledger, "_BUSY_SECONDS", 0.5)

    async def run() -> list[int]:
        with place.busy():
            async with place.waiting(3) as tasks:
                return [answer.status_code for answer in await asyncio.gather(*tasks)]

    assert asyncio.run(run()) == [503, 503, 503]
    assert (place.handled, rows(place)) == ([], [])
    assert delivered(place.receiver, PAYLOAD).json() == {"status": "accepted"}
    assert delivered(place.receiver, PAYLOAD).json() == {"status": "replayed"}
    assert (place.handled, rows(place)) == (["evt-1"], [("evt-1",)])
    assert place.receiver.counts == {"ledger failed": 3, "accepted": 1, "replayed": 1}


def test_redelivery_is_a_replay_once_the_first_is_stored(place: Place) -> None:
    """A redelivery waits with the first one, and is a replay as soon as that is stored."""

    async def run() -> list[str]:
        with place.busy() as other:
            async with place.waiting(3) as tasks:
                done, _ = await asyncio.wait(tasks, timeout=0.2)
                assert not done
                other.execute("ROLLBACK")
                return [answer.json()["status"] for answer in await asyncio.gather(*tasks)]

    assert asyncio.run(run()) == ["accepted", "replayed", "replayed"]
    assert place.handled == ["evt-1"]


def test_event_whose_request_is_cancelled_is_handled(place: Place) -> None:
    """A server that gives up a request while its event is written does not lose the event: it is
    stored and handled, and the next delivery of it is a replay."""

    async def run() -> None:
        with place.busy() as other:
            async with place.waiting(1) as (task,):
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                other.execute("ROLLBACK")
                await place.forget()

    asyncio.run(run())
    assert (place.handled, rows(place)) == (["evt-1"], [("evt-1",)])
    assert delivered(place.receiver, PAYLOAD).json() == {"status": "replayed"}
    assert place.handled == ["evt-1"]


def test_cancelled_request_whose_write_fails_is_delivered_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that was given up, and whose event could not be written, leaves nothing behind."""
    monkeypatch.setattr(ledger, "_BUSY_SECONDS", 0.2)

    async def run() -> None:
        with place.busy():
            async with place.waiting(1) as (task,):
                task.cancel()
                await place.forget()

    asyncio.run(run())
    assert (place.handled, rows(place)) == ([], [])
    assert delivered(place.receiver, PAYLOAD).json() == {"status": "accepted"}


def test_handlers_go_on_when_the_request_is_cancelled(place: Place) -> None:
    """An event that was answered is handled to the end, whatever the server does to its request."""
    begun, ended = [], []

    @place.receiver.on()
    async def slow(event: Event) -> None:
        begun.append(event.id)
        await asyncio.sleep(0.1)
        ended.append(event.id)

    async def run() -> None:
        async with place.waiting(1) as (task,):
            while not begun:
                await asyncio.sleep(0.001)
            task.cancel()
            await place.forget()

    asyncio.run(run())
    assert ended == ["evt-1"]


def test_event_loops_do_not_wait_for_each_other(place: Place) -> None:
    """One receiver in two event loops stores an event once: the ledger tells which came first."""
    answers: list[str] = []

    async def run() -> None:
        with place.busy() as other:
            async with place.waiting(1) as (task,):
                second = asyncio.create_task(asyncio.to_thread(delivered, place.receiver, PAYLOAD))
                await asyncio.wait([second], timeout=0.2)
                other.execute("ROLLBACK")
                found = await asyncio.gather(task, second)
                answers.extend(answer.json()["status"] for answer in found)

    asyncio.run(run())
    assert sorted(answers) == ["accepted", "replayed"]
    assert place.handled == ["evt-1"]


@pytest.mark.slow
def test_full_disk_loses_no_event(place: Place) -> None:
    """Where the ledger cannot grow, each event gets 503 until it can, and is then taken once."""
    events = [PAYLOAD | {"id": f"evt-{n}-{'x' * 200}", "sandbox_id": f"s{n}"} for n in range(60)]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (place.path.stat().st_size + 4096, limits[1]))
        answers = [delivered(place.receiver, event).status_code for event in events]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert set(answers) == {200, 503}
    again = [delivered(place.receiver, event).json()["status"] for event in events]
    assert again == [{200: "replayed", 503: "accepted"}[answer] for answer in answers]
    assert sorted(place.handled) == sorted(event["id"] for event in events)
    assert sum(usage.sandboxes for usage in place.ledger.usage()) == len(events)
