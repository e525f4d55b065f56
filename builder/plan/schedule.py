"""Which build may start when, so that a step that several builds share is run once.

E2B keeps what a step made once the step is over: of builds that need the same first steps, one runs
them, and the others start as soon as it is past them. Nobody waits for a build that has ended.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from builder.errors import BuildError
from builder.plan import common_steps
from builder.system.processes import check_not_stopped

__all__ = ["Schedule"]

_CHECK_SECONDS = 0.5


class Schedule:
    """The builds of one run and how far each is; safe to use from a thread a build."""

    def __init__(self, keys: Mapping[str, Sequence[str]]) -> None:
        """`keys`: name → the keys of its steps, in the order in which the builds would start."""
        self._keys = dict(keys)
        self._state: dict[str, Literal["waiting", "running", "ended"]] = dict.fromkeys(
            keys, "waiting"
        )
        self._steps = dict.fromkeys(keys, 0)
        self._failed: dict[str, int] = {}
        self._changed = threading.Condition()

    def start(self, name: str, waiting: Callable[[str, int], None]) -> int:
        """Wait until no other build is about to run a step that `name` needs, too.

        `waiting` is told whom it waits for and for how many steps, whenever that changes. Returns
        how many of its first steps other builds of this run have put into the cache. Raises
        `BuildError` when one of its steps failed in another build: the same step fails again.
        """
        told: tuple[str, int] | None = None
        with self._changed:
            while (ahead := self._ahead(name)) is not None:
                if ahead != told:
                    told = ahead
                    waiting(*ahead)
                self._changed.wait(_CHECK_SECONDS)
                check_not_stopped()
            for other, step in self._failed.items():
                if self._shared(name, other) >= step:
                    what = f"step {step} is shared with" if step else "the base image is that of"
                    raise BuildError(
                        f"not built: {what} `{other}`, where it failed",
                        hint=f"`template-builder logs {other}` shows why",
                    )
            self._state[name] = "running"
            return self._cached(name)

    def passed(self, name: str, steps: int) -> None:
        """The first `steps` steps of `name` are in the cache now."""
        with self._changed:
            if steps > self._steps.get(name, 0):
                self._steps[name] = steps
                self._changed.notify_all()

    def end(self, name: str, *, failed_step: int | None = None) -> None:
        """The build of `name` has ended; `failed_step` (from 1) is the one that failed in it."""
        with self._changed:
            if name in self._state:
                self._state[name] = "ended"
                if failed_step is not None:
                    self._failed[name] = failed_step
                self._changed.notify_all()

    def _shared(self, name: str, other: str) -> int:
        return common_steps(self._keys[name], self._keys[other])

    def _cached(self, name: str) -> int:
        others = (other for other in self._keys if other != name)
        return max((min(self._shared(name, o), self._steps[o]) for o in others), default=0)

    def _ahead(self, name: str) -> tuple[str, int] | None:
        """The build to wait for and the number of steps, or None."""
        if name not in self._keys:
            return None
        cached, before = self._cached(name), True
        found: tuple[str, int] | None = None
        for other, state in self._state.items():
            if other == name:
                before = False
                continue
            shared = self._shared(name, other)
            runs_first = state == "running" or (state == "waiting" and before)
            if runs_first and shared > max(cached, found[1] if found else 0):
                found = other, shared
        return found
