"""One thing that is made in advance."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import pytest

from builder.targets.local.spare import Spare


@dataclass(eq=False)
class Thing:
    """Something that can be made in advance."""

    good: bool = True
    closed: bool = False

    def usable(self) -> bool:
        return self.good

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def spare() -> Spare[Thing]:
    """A spare that was needed twice, so that the next one is made ahead."""
    spare = Spare[Thing]()
    assert spare.take("kind") is None
    assert spare.take("kind") is None
    return spare


def test_made_from_the_second_need_on() -> None:
    """What was needed once may never be needed again: only after two is one made ahead."""
    spare, thing = Spare[Thing](), Thing()
    assert spare.take("kind") is None
    spare.make("kind", Thing)
    assert spare.take("kind") is None
    spare.make("kind", lambda: thing)
    assert spare.take("kind") is thing
    assert spare.take("kind") is None


def test_there_is_one_at_most(spare: Spare[Thing]) -> None:
    """While there is one, no other is made."""
    first = Thing()
    spare.make("kind", lambda: first)
    spare.make("kind", Thing)
    assert spare.take("kind") is first
    assert spare.take("kind") is None


def test_one_that_is_being_made_is_waited_for(spare: Spare[Thing]) -> None:
    """A caller gets the one that is being made, rather than make another beside it."""
    thing, begun, go_on = Thing(), threading.Event(), threading.Event()

    def make() -> Thing:
        begun.set()
        assert go_on.wait(60)
        return thing

    spare.make("kind", make)
    assert begun.wait(60)
    threading.Timer(0.05, go_on.set).start()
    assert spare.take("kind") is thing


def test_another_kind_is_not_given_and_replaces_it(spare: Spare[Thing]) -> None:
    """One of another kind stays for its own callers until one of a newer kind is made."""
    old, new = Thing(), Thing()
    spare.make("kind", lambda: old)
    assert spare.take("new") is None
    spare.make("new", Thing)
    assert spare.take("new") is None
    assert not old.closed
    spare.make("new", lambda: new)
    assert spare.take("new") is new
    assert old.closed


def test_none_is_made_while_kinds_alternate(spare: Spare[Thing]) -> None:
    """Where each caller needs another kind than the one before, nothing is made that nobody
    takes."""
    for kind in ("one", "other") * 3:
        assert spare.take(kind) is None
        spare.make(kind, Thing)
    assert spare._made is None


def test_one_that_nobody_takes_is_ended(
    spare: Spare[Thing], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that waits for too long is ended, and the next caller makes its own."""
    monkeypatch.setattr("builder.targets.local.spare._IDLE_SECONDS", 0.01)
    thing = Thing()
    spare.make("kind", lambda: thing)
    deadline = time.monotonic() + 60
    while not thing.closed and time.monotonic() < deadline:
        time.sleep(0.01)
    assert thing.closed
    assert spare.take("kind") is None


def test_one_that_has_ended_is_not_given(spare: Spare[Thing]) -> None:
    """One that has become unusable is ended, and the caller makes its own."""
    bad = Thing(good=False)
    spare.make("kind", lambda: bad)
    assert spare.take("kind") is None
    assert bad.closed


def test_error_of_the_thread_is_left_to_the_next_caller(spare: Spare[Thing]) -> None:
    """If making it fails, there is none, and the next can be made."""

    def fail() -> Thing:
        raise OSError("no space")

    thing = Thing()
    spare.make("kind", fail)
    assert spare.take("kind") is None
    spare.make("kind", lambda: thing)
    assert spare.take("kind") is thing


def test_without_threads_there_is_none(
    spare: Spare[Thing], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no more threads can be started, nobody waits for one, and the old one is ended."""

    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    old = Thing()
    spare.make("kind", lambda: old)
    for _ in range(2):
        assert spare.take("new") is None
    monkeypatch.setattr(threading.Thread, "start", start)
    spare.make("new", Thing)
    assert old.closed
    assert spare.take("new") is None


def test_close_ends_it_and_makes_no_more(spare: Spare[Thing]) -> None:
    """Closing waits for the one that is being made, ends it, and no other is made later."""
    thing, go_on = Thing(), threading.Event()

    def make() -> Thing:
        assert go_on.wait(60)
        return thing

    spare.make("kind", make)
    threading.Timer(0.05, go_on.set).start()
    spare.close()
    assert thing.closed
    spare.make("kind", Thing)
    assert spare.take("kind") is None
