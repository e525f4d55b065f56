"""A sandbox that is made in advance, for the next caller."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import pytest

from builder.targets.local.spare import Spare
from tests.support.runs import until


@dataclass(eq=False)
class Sandbox:
    """Stands for a sandbox."""

    good: bool = True
    closed: bool = False

    def usable(self) -> bool:
        return self.good

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def spare() -> Spare[Sandbox]:
    """A spare that was needed twice, so that the next one is made in advance."""
    spare = Spare[Sandbox]()
    assert spare.take("kind") is None
    assert spare.take("kind") is None
    return spare


def test_made_from_the_second_need_on() -> None:
    """What was needed once may never be needed again: only after two is one made ahead."""
    spare, sandbox = Spare[Sandbox](), Sandbox()
    assert spare.take("kind") is None
    spare.make("kind", Sandbox)
    assert spare.take("kind") is None
    spare.make("kind", lambda: sandbox)
    assert spare.take("kind") is sandbox
    assert spare.take("kind") is None


def test_there_is_one_at_most(spare: Spare[Sandbox]) -> None:
    """While there is one, no other is made."""
    first = Sandbox()
    spare.make("kind", lambda: first)
    spare.make("kind", Sandbox)
    assert spare.take("kind") is first
    assert spare.take("kind") is None


def test_one_that_is_being_made_is_waited_for(spare: Spare[Sandbox]) -> None:
    """A caller gets the one that is being made, rather than make another beside it."""
    sandbox, begun, go_on = Sandbox(), threading.Event(), threading.Event()

    def make() -> Sandbox:
        begun.set()
        assert go_on.wait(60)
        return sandbox

    spare.make("kind", make)
    assert begun.wait(60)
    threading.Timer(0.05, go_on.set).start()
    assert spare.take("kind") is sandbox


def test_another_kind_is_not_given_and_replaces_it(spare: Spare[Sandbox]) -> None:
    """One of another kind stays for its own callers until one of a newer kind is made."""
    old, new = Sandbox(), Sandbox()
    spare.make("kind", lambda: old)
    assert spare.take("new") is None
    spare.make("new", Sandbox)
    assert spare.take("new") is None
    assert not old.closed
    spare.make("new", lambda: new)
    assert spare.take("new") is new
    assert old.closed


def test_none_is_made_while_kinds_alternate(spare: Spare[Sandbox]) -> None:
    """Where each caller needs another kind than the one before, nothing is made that nobody
    takes."""
    for kind in ("one", "other") * 3:
        assert spare.take(kind) is None
        spare.make(kind, Sandbox)
    assert spare._made is None


def test_one_that_nobody_takes_is_ended(
    spare: Spare[Sandbox], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that waits for too long is ended, and the next caller makes its own."""
    monkeypatch.setattr("builder.targets.local.spare._IDLE_SECONDS", 0.01)
    sandbox = Sandbox()
    spare.make("kind", lambda: sandbox)
    until(lambda: sandbox.closed)
    assert spare.take("kind") is None


def test_one_that_has_ended_is_not_given(spare: Spare[Sandbox]) -> None:
    """One that has become unusable is ended, and the caller makes its own."""
    bad = Sandbox(good=False)
    spare.make("kind", lambda: bad)
    assert spare.take("kind") is None
    assert bad.closed


def test_error_of_the_thread_is_left_to_the_next_caller(spare: Spare[Sandbox]) -> None:
    """If making it fails, there is none, and the next can be made."""

    def fail() -> Sandbox:
        raise OSError("no space")

    sandbox = Sandbox()
    spare.make("kind", fail)
    assert spare.take("kind") is None
    spare.make("kind", lambda: sandbox)
    assert spare.take("kind") is sandbox


def test_without_threads_there_is_none(
    spare: Spare[Sandbox], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no more threads can be started, nobody waits for one, and the old one is ended."""

    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    old = Sandbox()
    spare.make("kind", lambda: old)
    for _ in range(2):
        assert spare.take("new") is None
    monkeypatch.setattr(threading.Thread, "start", start)
    spare.make("new", Sandbox)
    assert old.closed
    assert spare.take("new") is None


def test_close_ends_it_and_makes_no_more(spare: Spare[Sandbox]) -> None:
    """Closing waits for the one that is being made, ends it, and no other is made later."""
    sandbox, go_on = Sandbox(), threading.Event()

    def make() -> Sandbox:
        assert go_on.wait(60)
        return sandbox

    spare.make("kind", make)
    threading.Timer(0.05, go_on.set).start()
    spare.close()
    assert sandbox.closed
    spare.make("kind", Sandbox)
    assert spare.take("kind") is None
