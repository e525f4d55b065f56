"""The usage and cost of sandboxes: a SQLite file, written by the webhook receiver."""

from __future__ import annotations

import contextlib
import datetime as dt
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from builder.errors import StorageError

if TYPE_CHECKING:
    from builder.webhooks.events import Event

# US dollars, by E2B's documentation ("How do I calculate the price of a sandbox?"), August 2026.
VCPU_SECOND = 0.000014
GIB_SECOND = 0.0000045
_BUSY_SECONDS = 10.0
_TABLES = """
CREATE TABLE IF NOT EXISTS events (id TEXT PRIMARY KEY, at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS runs (
    sandbox_id TEXT NOT NULL, template_id TEXT NOT NULL, template TEXT,
    started_at REAL NOT NULL, ended_at REAL, cpus INTEGER, memory_mb INTEGER,
    PRIMARY KEY (sandbox_id, started_at)
);
PRAGMA user_version = 1;
"""
# The clocks of the event and of the sandbox may differ by this much.
_SAME_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """The sandboxes of one template: how many, how many at once, minutes, US dollars.

    The minutes of the `running` ones count so far. The cost of the `unpriced` ones, whose size is
    unknown, is missing.
    """

    template: str
    sandboxes: int
    peak: int
    minutes: float
    cost: float
    running: int
    unpriced: int


class Ledger:
    """The file at `path`, created if missing. Several processes may use it at once."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def add(self, event: Event) -> bool:
        """Add an event. Return False if it was added before. Raises `StorageError`."""
        with self._open() as database:
            added = database.execute(
                "INSERT OR IGNORE INTO events VALUES (?, ?)", (event.id, event.at.timestamp())
            )
            if added.rowcount == 0:
                return False
            if event.name in ("created", "resumed"):
                self._begin(database, event)
            elif event.name in ("killed", "paused"):
                self._end(database, event)
            return True

    def usage(
        self,
        *,
        since: dt.datetime | None = None,
        now: dt.datetime | None = None,
        vcpu_second: float = VCPU_SECOND,
        gib_second: float = GIB_SECOND,
    ) -> list[Usage]:
        """Return the usage by template, the most expensive first, from `since` on."""
        end_of_time = (now or dt.datetime.now(dt.UTC)).timestamp()
        first = since.timestamp() if since else float("-inf")
        runs: dict[str, list[tuple[str, float, float, bool, int | None, int | None]]] = {}
        with self._open() as database:
            for row in database.execute(
                "SELECT coalesce(template, template_id), sandbox_id, started_at, ended_at, cpus,"
                " memory_mb FROM runs"
            ):
                name, sandbox, start, end, cpus, memory = row
                stop = end_of_time if end is None else end
                if stop < first:
                    continue
                begin = max(start, first)
                runs.setdefault(name, []).append(
                    (sandbox, begin, max(begin, stop), end is None, cpus, memory)
                )
        usages = []
        for name, entries in runs.items():
            cost = sum(
                (stop - start) * (cpus * vcpu_second + memory / 1024 * gib_second)
                for _, start, stop, _, cpus, memory in entries
                if cpus is not None and memory is not None
            )
            usages.append(
                Usage(
                    template=name,
                    sandboxes=len({sandbox for sandbox, *_ in entries}),
                    peak=_peak([(start, stop) for _, start, stop, *_ in entries]),
                    minutes=sum(stop - start for _, start, stop, *_ in entries) / 60,
                    cost=cost,
                    running=sum(running for _, _, _, running, *_ in entries),
                    unpriced=sum(None in (cpus, memory) for *_, cpus, memory in entries),
                )
            )
        return sorted(usages, key=lambda usage: (-usage.cost, -usage.minutes, usage.template))

    @staticmethod
    def _begin(database: sqlite3.Connection, event: Event) -> None:
        at = event.at.timestamp()
        # Deliveries come in any order: the end of this run may be known already.
        known = database.execute(
            "SELECT 1 FROM runs WHERE sandbox_id = ? AND started_at <= ?"
            " AND (ended_at IS NULL OR ended_at >= ?)",
            (event.sandbox_id, at + _SAME_SECONDS, at),
        ).fetchone()
        if not known:
            database.execute(
                "INSERT OR IGNORE INTO runs VALUES (?, ?, ?, ?, NULL, ?, ?)",
                (event.sandbox_id, event.template_id, event.template, at, event.cpus,
                 event.memory_mb),
            )  # fmt: skip

    @staticmethod
    def _end(database: sqlite3.Connection, event: Event) -> None:
        at = event.at.timestamp()
        start = event.started_at.timestamp() if event.started_at else None
        if start is None and event.seconds is not None:
            start = at - event.seconds
        end = start + event.seconds if start is not None and event.seconds is not None else at
        open_run = database.execute(
            "SELECT rowid, started_at FROM runs WHERE sandbox_id = ? AND ended_at IS NULL"
            " AND started_at <= ? ORDER BY started_at DESC LIMIT 1",
            (event.sandbox_id, at + _SAME_SECONDS),
        ).fetchone()
        if open_run:
            # The end of a resumed sandbox may repeat its first start: that run has ended, and this
            # one began when it was resumed.
            taken = database.execute(
                "SELECT 1 FROM runs WHERE sandbox_id = ? AND started_at = ? AND rowid != ?",
                (event.sandbox_id, start, open_run[0]),
            ).fetchone()
            if start is None or taken:
                start, end = open_run[1], max(at, open_run[1])
            database.execute(
                "UPDATE runs SET started_at = ?, ended_at = ?, cpus = coalesce(?, cpus),"
                " memory_mb = coalesce(?, memory_mb) WHERE rowid = ?",
                (start, end, event.cpus, event.memory_mb, open_run[0]),
            )
        else:
            # A paused sandbox that is killed later did not run meanwhile: its run is known already.
            database.execute(
                "INSERT OR IGNORE INTO runs VALUES (?, ?, ?, ?, ?, ?, ?)",
                (event.sandbox_id, event.template_id, event.template,
                 end if start is None else start, end, event.cpus, event.memory_mb),
            )  # fmt: skip

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        database = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            database = sqlite3.connect(self.path, timeout=_BUSY_SECONDS)
            database.executescript(_TABLES)
            with database:
                yield database
        except (sqlite3.Error, OSError, ValueError) as error:
            raise StorageError(
                f"the ledger {self.path} cannot be used: {error}",
                hint="check that it is a ledger of template-builder, and writable",
            ) from error
        finally:
            if database:
                database.close()


def _peak(spans: list[tuple[float, float]]) -> int:
    """Return the most sandboxes that ran at once; one ending when another begins is not counted."""
    moments = sorted([(start, 1) for start, _ in spans] + [(stop, -1) for _, stop in spans])
    most = now = 0
    for _, change in moments:
        now += change
        most = max(most, now)
    return most
