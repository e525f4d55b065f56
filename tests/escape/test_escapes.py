from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, get_args

import pytest

from builder.render import Rendered
from builder.sandbox.execution import Execution
from builder.system.isolation import Isolation
from builder.targets.local.kernel import KernelSandbox
from tests.escape import files, kernel, network, processes
from tests.escape.attempt import MARK, PRELUDE, Attempt, Wall
from tests.escape.opening import NEEDS_WALLS, open_sandbox
from tests.escape.outside import has, outside

pytestmark = NEEDS_WALLS

ATTEMPTS = (*files.ATTEMPTS, *processes.ATTEMPTS, *network.ATTEMPTS, *kernel.ATTEMPTS)
# Raised by a program that is wrong, not stopped.
MISTAKES = {
    *("AttributeError", "ImportError", "IndexError", "KeyError", "ModuleNotFoundError"),
    *("NameError", "SyntaxError", "TypeError", "UnboundLocalError"),
}
OTHER_PROCESS = {"confined": "1000000001", "none": "1000000002"}
# The sandbox of an attempt is shared, and "cold" ones differ in how their kernel starts alone.
FIRST_OF_EACH_WALL = [
    next(attempt for attempt in ATTEMPTS if attempt.wall == wall) for wall in get_args(Wall)
]


class Sandboxes:
    """Confined and other sandboxes of one kind, each with a second one beside it."""

    def __init__(self, facts: dict[str, Any], kind: str, light: Rendered, ref: str) -> None:
        self._facts, self._kind, self._light, self._ref = facts, kind, light, ref
        self._opened: dict[Isolation, KernelSandbox] = {}
        self._others: dict[Isolation, KernelSandbox] = {}

    def run(self, attempt: Attempt, isolation: Isolation) -> Execution:
        """Run an attempt, in a new sandbox if an earlier attempt has ended the last one."""
        sandbox = self._opened.get(isolation)
        if sandbox is None or not sandbox.alive():
            if sandbox:
                sandbox.close()
            sandbox = self._opened[isolation] = self._prepared(isolation)
        return sandbox.run(attempt.program(), timeout=60)

    def _prepared(self, isolation: Isolation) -> KernelSandbox:
        if isolation not in self._others:
            other = self._others[isolation] = self._open(isolation)
            (other.home / "other").write_text(self._facts["token"])
            command = ["sleep", OTHER_PROCESS[isolation]]
            other.run(f"import subprocess; subprocess.Popen({command})", timeout=60)
        home = self._others[isolation].home
        facts = self._facts | {
            "other_folder": str(home.parent),
            "other_file": str(home / "other"),
            "other_process": OTHER_PROCESS[isolation],
        }
        sandbox = self._open(isolation)
        prepared = sandbox.run(f"facts = {facts!r}\n{PRELUDE}", timeout=60)
        assert prepared.error is None, prepared.traceback
        return sandbox

    def _open(self, isolation: Isolation) -> KernelSandbox:
        return open_sandbox(self._kind, self._light, self._ref, isolation)

    def close(self) -> None:
        for sandbox in (*self._opened.values(), *self._others.values()):
            sandbox.close()


@pytest.fixture(scope="module")
def facts() -> Iterator[dict[str, Any]]:
    with outside() as facts:
        yield facts


@pytest.fixture(scope="module")
def kept() -> Iterator[dict[str, Sandboxes]]:
    sandboxes: dict[str, Sandboxes] = {}
    yield sandboxes
    for each in sandboxes.values():
        each.close()


@pytest.fixture
def sandboxes(
    request: pytest.FixtureRequest,
    kept: dict[str, Sandboxes],
    facts: dict[str, Any],
    light: Rendered,
    ref: str,
) -> Sandboxes:
    kind: str = request.param
    if kind not in kept:
        kept[kind] = Sandboxes(facts, kind, light, ref)
    return kept[kind]


def of_kind(kind: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("sandboxes", [kind], indirect=True)


def of(attempts: list[Attempt] | tuple[Attempt, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("attempt", attempts, ids=lambda attempt: attempt.goal)


@of_kind("forked")
@of(ATTEMPTS)
def test_attempt_fails_in_a_forked_sandbox(attempt: Attempt, sandboxes: Sandboxes) -> None:
    """An attempt that succeeds without isolation fails in a confined sandbox with a forked
    kernel."""
    check(attempt, sandboxes, zygote=True)


@of_kind("cold")
@of(FIRST_OF_EACH_WALL)
def test_attempt_at_each_wall_fails_in_a_cold_sandbox(
    attempt: Attempt, sandboxes: Sandboxes
) -> None:
    """One attempt at each wall fails in a confined sandbox whose kernel is started from scratch."""
    check(attempt, sandboxes, zygote=False)


@pytest.mark.soak
@of_kind("cold")
@of(ATTEMPTS)
def test_attempt_fails_in_a_cold_sandbox(attempt: Attempt, sandboxes: Sandboxes) -> None:
    """Every attempt fails in a confined sandbox whose kernel is started from scratch."""
    check(attempt, sandboxes, zygote=False)


def check(attempt: Attempt, sandboxes: Sandboxes, *, zygote: bool) -> None:
    """Make an attempt with and without isolation. It must fail in a confined sandbox even if this
    user and machine cannot make it succeed without isolation."""
    able = os.geteuid() == 0 or not attempt.root
    if attempt.needs:
        able = able and (zygote if attempt.needs == "zygote" else has(attempt.needs))
    if able:
        unconfined = sandboxes.run(attempt, "none")
        assert MARK in unconfined.stdout, unconfined.traceback
    confined = sandboxes.run(attempt, "confined")
    assert MARK not in confined.stdout
    mistake = (confined.error or "").partition(":")[0] in MISTAKES
    assert not mistake, confined.traceback
