from __future__ import annotations

import contextlib

import pytest

from builder.errors import InterpreterDiedError
from builder.render import Rendered
from builder.targets.local.kernel import KernelSandbox
from tests.escape.attempt import MARK, PRELUDE
from tests.escape.bombs import BOMBS, LIMITS, Bomb, representative
from tests.escape.opening import NEEDS_WALLS, open_sandbox

pytestmark = NEEDS_WALLS


def dropped(bomb: Bomb, sandbox: KernelSandbox, *, wait: float) -> tuple[bool, str]:
    """Return whether a bomb went off, and the error with which it ended."""
    prepared = sandbox.run(f"facts = {{'wait': {wait}}}\n{PRELUDE}", timeout=60)
    assert prepared.error is None
    try:
        execution = sandbox.run(bomb.program(), timeout=120)
    except InterpreterDiedError as error:
        return False, str(error)
    return MARK in execution.stdout, str(execution.error)


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["forked", "cold"])
@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: bomb.goal)
def test_each_bomb_ends_at_its_limit(bomb: Bomb, kind: str, light: Rendered, ref: str) -> None:
    """Each bomb ends at its limit in forked and cold sandboxes, and goes off without isolation."""
    check(bomb, kind, light, ref)


@pytest.mark.parametrize("bomb", representative(), ids=lambda bomb: bomb.goal)
def test_bomb_of_each_limit_ends_there(bomb: Bomb, light: Rendered, ref: str) -> None:
    """Memory, processes, open files, disk and the number of files each have a limit, which the
    error names. Another sandbox goes on."""
    check(bomb, "forked", light, ref)


def check(bomb: Bomb, kind: str, light: Rendered, ref: str) -> None:
    with contextlib.closing(open_sandbox(kind, light, ref, "none")) as unconfined:
        assert dropped(bomb, unconfined, wait=0) == (True, "None")
    with (
        contextlib.closing(open_sandbox(kind, light, ref, "confined")) as other,
        contextlib.closing(open_sandbox(kind, light, ref, "confined", limits=LIMITS)) as sandbox,
    ):
        succeeded, error = dropped(bomb, sandbox, wait=6)
        assert bomb.words in error
        assert not succeeded
        assert sandbox.alive() != bomb.ends
        assert other.run("print(1)", timeout=60).stdout == "1\n"
