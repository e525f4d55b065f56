from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.errors import BuildError
from builder.plan import common_steps
from builder.plan.schedule import Schedule
from builder.system.events import Event


def run(keys: dict[str, Sequence[str]], failing: frozenset[str] = frozenset()) -> list[str]:
    """Carry all builds out in threads, on a cache of layers; every step that was run, in turn."""
    schedule = Schedule(keys, jobs=len(keys) or 1)
    cache: set[tuple[str, ...]] = set()
    ran: list[str] = []
    lock = threading.Lock()

    def build(name: str) -> None:
        try:
            schedule.start(name)
        except BuildError:
            schedule.end(name)
            return
        for number in range(1, len(keys[name]) + 1):
            layer = tuple(keys[name][:number])
            with lock:
                known = layer in cache
            if not known:
                time.sleep(0.001)
                with lock:
                    ran.append("/".join(layer))
                if layer[-1] in failing:
                    schedule.end(name, failed_step=number)
                    return
                with lock:
                    cache.add(layer)
            schedule.passed(name, number)
        schedule.end(name)

    threads = [threading.Thread(target=build, args=(name,)) for name in keys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()
    return ran


chains = st.dictionaries(
    st.sampled_from("pqrstuvw"), st.lists(st.sampled_from("abc"), max_size=5), max_size=8
)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(chains, st.frozensets(st.sampled_from("abc"), max_size=1))
def test_every_step_runs_once(keys: dict[str, Sequence[str]], failing: frozenset[str]) -> None:
    """Whatever is shared by whom, and whatever fails, no step runs twice and no build hangs."""
    ran = run(keys, failing)
    assert len(ran) == len(set(ran))
    if not failing:
        wanted = {"/".join(k[:n]) for k in keys.values() for n in range(1, len(k) + 1)}
        assert set(ran) == wanted


def test_followers_start_while_the_leader_goes_on() -> None:
    """A build waits for the shared steps of the one before it, and not for the rest of it."""
    events: list[Event] = []
    steps = {"one": "abcd", "two": "abx", "other": "z"}
    schedule = Schedule(steps, jobs=3, report=events.append)
    assert schedule.start("one") == 0
    assert schedule.start("other") == 0
    started = threading.Event()

    def follow() -> None:
        assert schedule.start("two") == 2
        started.set()

    thread = threading.Thread(target=follow)
    thread.start()
    schedule.passed("one", 1)
    assert not started.wait(0.1)
    schedule.passed("one", 2)
    assert started.wait(5)
    thread.join()
    assert [(event.variant, event.text) for event in events] == [
        ("two", "waiting for `one` to run the first 2 steps, which they share")
    ]


def test_no_more_run_at_a_time_than_jobs() -> None:
    """A build that shares nothing waits until one that runs is over, its verification included."""
    schedule = Schedule({"one": "a", "two": "b"}, jobs=1)
    schedule.start("one")
    started = threading.Event()

    def follow() -> None:
        schedule.start("two")
        started.set()

    thread = threading.Thread(target=follow)
    thread.start()
    schedule.built("one")
    assert not started.wait(0.1)
    schedule.end("one")
    assert started.wait(5)
    thread.join()


def test_next_one_leads_when_the_leader_ends_early() -> None:
    """Who waited for a build that ended without its shared steps runs them itself."""
    schedule = Schedule({"one": "ab", "two": "ab", "three": "ab"}, jobs=3)
    schedule.start("one")
    schedule.end("one")
    assert schedule.start("two") == 0
    schedule.passed("two", 2)
    assert schedule.start("three") == 2


def test_shared_step_that_failed_is_not_tried_again() -> None:
    """A build whose step failed in another build is not begun, and says where it failed."""
    schedule = Schedule({"one": "abc", "two": "abd", "three": "ax"}, jobs=3)
    schedule.start("one")
    schedule.passed("one", 1)
    schedule.end("one", failed_step=2)
    with pytest.raises(BuildError) as caught:
        schedule.start("two")
    assert str(caught.value) == (
        "not built: step 2 is shared with `one`, where it failed\n\n"
        "hint: `template-builder logs one` shows why"
    )
    schedule.end("two")
    assert schedule.start("three") == 1


def test_common_steps_are_a_prefix() -> None:
    """Steps are shared up to the first one that differs."""
    assert [common_steps("abc", other) for other in ("abd", "xbc", "abcd", "")] == [2, 0, 3, 0]
