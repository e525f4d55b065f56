"""Builds on the stand-in for E2B: start them, wait for them, check what they leave."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from builder import operations
from builder.system.events import discard
from tests.support.clouds import NAMES, Place
from tests.support.e2b_server import Server
from tests.support.program import Running, start_program

OPTIONS = {"build": ["--frozen", "--precheck", "never"], "plan": ["--frozen", "--target", "e2b"]}


def started(place: Place, *arguments: str, command: str = "build") -> Running:
    words = [command, *OPTIONS[command], *arguments]
    return start_program(words, cwd=place.folder, env=os.environ)


def finished(process: Running) -> str:
    """Wait for a run that must succeed, and return its output."""
    _, output = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output


def once(server: Server, *places: Place) -> None:
    """Check that every variant was built, published and recorded once, and nothing is left."""
    for name in NAMES:
        begun = [build for build in server.builds(name) if build.times_started]
        assert [build.status for build in begun] == ["ready"], name
        for place in places:
            record = place.recorded(name)
            assert record["build_id"] == begun[0].id
        tags = server.tags(name)
        assert tags["default"] == tags["stable"] == begun[0].id
    assert server.running == {}
    assert server.problems == []
    assert len(server.state.executed) == len(set(server.state.executed))


def until(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def meanwhile(act: Callable[[], None]) -> Iterator[None]:
    """Do in the background what another machine does, during the `with` block."""
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            act()
        except BaseException as error:  # noqa: BLE001 - raised in the test
            failures.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    yield
    thread.join()
    assert failures == []


def variable(place: Place, value: str) -> None:
    """Change the template `four` by a variable."""
    place.edit("four", lambda text: f'{text.partition("[env]")[0]}[env]\nA = "{value}"\n')


def reasons(place: Place, name: str) -> tuple[str, list[str]]:
    """Return what the plan would do with a variant, and why."""
    (planned,) = place.planned(name).variants
    return planned.action, [str(reason) for reason in planned.reasons]


def revoke(place: Place, name: str) -> None:
    path = place.folder / "registry.json"
    registry = json.loads(path.read_text())
    entry = registry["templates"][name]["e2b"]
    entry["builds"][entry["channels"]["stable"]]["revoked"] = "a package with malware"
    path.write_text(json.dumps(registry))


def two_builds(place: Place) -> tuple[str, str]:
    """Build `four` twice on E2B; return the refs of the older build and the newer, `stable` one."""
    old = place.build("four")["four"].ref
    place.edit("four", lambda text: f'{text}[env]\nA = "1"\n')
    new = place.build("four")["four"].ref
    assert old
    assert new
    return old, new


def promote(place: Place, ref: str) -> None:
    operations.promote(
        place.project(),
        operations.ChannelRequest(name="four", channel="stable", target="e2b"),
        ref,
        report=discard,
    )
