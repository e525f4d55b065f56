"""The ledger of events, and what was used by it."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.errors import StorageError
from builder.runtime import Ledger, WebhookReceiver
from tests.conftest import Command
from tests.support.webhooks import PAYLOAD, SECRET, delivered, event, execution

LIFE = [
    event(1, "created", 0),
    event(2, "created", 10, sandbox="s2"),
    event(3, "paused", 60, execution=execution(0, 60)),
    event(4, "resumed", 100),
    event(5, "killed", 160, execution=execution(100, 60)),
    event(6, "killed", 70, sandbox="s2", execution=execution(10, 60)),
    event(7, "created", 500, sandbox="s3", template="own"),
]


@pytest.mark.slow
@settings(max_examples=30)
@given(st.permutations(LIFE))
def test_ledger_does_not_depend_on_the_order(order: list[dict[str, Any]]) -> None:
    """However deliveries are ordered and repeated, the ledger says the same."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "usage.sqlite")
        receiver = WebhookReceiver(SECRET, ledger=ledger)
        for payload in [*order, *order[:2]]:
            assert delivered(receiver, payload).status_code == 200
        now = dt.datetime(2026, 11, 1, 12, 10, tzinfo=dt.UTC)
        ml, own = ledger.usage(now=now)
    assert (ml.template, ml.sandboxes, ml.peak, ml.running) == ("tta-ml-minimal", 2, 2, 0)
    assert ml.minutes == pytest.approx(3.0)
    assert ml.cost == pytest.approx(180 * (2 * 0.000014 + 2 * 0.0000045))
    assert (own.template, own.sandboxes, own.running, own.unpriced) == ("own", 1, 1, 1)
    assert own.minutes == pytest.approx(100 / 60)


def test_replay_is_known_after_a_restart(tmp_path: Path) -> None:
    """With a ledger, an event that came before a restart is dropped after it, too."""
    path = tmp_path / "usage.sqlite"
    answers = [
        delivered(WebhookReceiver(SECRET, ledger=Ledger(path)), PAYLOAD).json()["status"]
        for _ in range(2)
    ]
    assert answers == ["accepted", "replayed"]


def test_ledger_that_cannot_be_written(tmp_path: Path) -> None:
    """When the ledger fails, E2B is asked to deliver again, and a later delivery is accepted."""
    path = tmp_path / "usage.sqlite"
    path.write_text("not a database, and long enough to be told from an empty one" * 10)
    receiver = WebhookReceiver(SECRET, ledger=Ledger(path))
    assert delivered(receiver, PAYLOAD).status_code == 503
    with pytest.raises(StorageError, match=r"the ledger .* cannot be used: file is not a database"):
        Ledger(path).usage()
    path.unlink()
    assert delivered(receiver, PAYLOAD).json() == {"status": "accepted"}


def test_usage_command(tmp_path: Path, command: Command) -> None:
    """`usage` shows the ledger by template: as a table, and as JSON; at other prices on request."""
    path = tmp_path / "usage.sqlite"
    receiver = WebhookReceiver(SECRET, ledger=Ledger(path))
    for payload in LIFE[:6]:
        delivered(receiver, payload)
    shown = command("usage", "--ledger", path)
    assert shown.returncode == 0, shown.stderr
    assert [line.split() for line in shown.stdout.splitlines() if "tta" in line] == [
        ["tta-ml-minimal", "2", "0", "2", "3.0", "0.0067"]
    ]
    priced = command("usage", "--ledger", path, "--vcpu-hour", "1", "--gib-hour", "0", "--json")
    (found,) = json.loads(priced.stdout)["templates"]
    assert found["cost"] == pytest.approx(0.1)
    (tmp_path / "variants").mkdir()
    missing = command("usage")
    assert missing.returncode == 5
    assert missing.stderr.startswith("error: there is no ledger at ")


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
    for payload in (
        run_event("created", 0),
        run_event("paused", 10, **first, execution_time=600_000),
        run_event("resumed", 20),
        run_event("paused", 30, **first),
        run_event("killed", 31, **first),
    ):
        assert delivered(receiver, payload).json()["status"] == "accepted"
    (found,) = ledger.usage()
    assert found.running == 0
    assert found.minutes == pytest.approx(20)


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
