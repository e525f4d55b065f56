"""Schedule builds so that each shared step runs once, and only a given number run at a time.

E2B caches the result of a step when the step is done. Of several builds with the same first steps,
one runs these steps, and the others start once it has passed them.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Literal

from builder.errors import BuildError, counted
from builder.plan import common_steps
from builder.system.events import Event, Reporter, discard
from builder.system.processes import check_not_stopped

_CHECK_SECONDS = 0.5


class Schedule:
    """The builds of one run and their progress; thread-safe."""

    def __init__(
        self, keys: Mapping[str, Sequence[str]], *, jobs: int, report: Reporter = discard
    ) -> None:
        """`keys` maps each name to the keys of its steps, in the order in which builds start."""
        self._report = report
        self._free, self._started = threading.Semaphore(jobs), set[str]()
        self._keys = dict(keys)
        self._state: dict[str, Literal["waiting", "running", "ended"]] = dict.fromkeys(
            keys, "waiting"
        )
        self._steps = dict.fromkeys(keys, 0)
        self._failed: dict[str, int] = {}
        self._changed = threading.Condition()

    def start(self, name: str) -> int:
        """Wait until no other build is about to run a step of `name`, and fewer than `jobs` run.

        Return how many of its first steps other builds of this run have put into the cache. Raise
        `BuildError` if one of its steps failed in another build, since it would fail again.
        """
        reported: tuple[str, int] | None = None
        with self._changed:
            while (ahead := self._ahead(name)) is not None:
                if ahead != reported:
                    reported = other, steps = ahead
                    shared = f"the first {counted(steps, 'step')}, which they share"
                    text = f"waiting for `{other}` to run {shared}"
                    self._report(Event(kind="step", variant=name, text=text))
                self._changed.wait(_CHECK_SECONDS)
                check_not_stopped()
            for other, step in self._failed.items():
                if self._shared(name, other) >= step:
                    cause = f"step {step} is shared with" if step else "the base image is that of"
                    raise BuildError(
                        f"not built: {cause} `{other}`, where it failed",
                        hint=f"`template-builder logs {other}` shows why",
                    )
            self._state[name] = "running"
            cached = self._cached(name)
        while not self._free.acquire(timeout=_CHECK_SECONDS):
            check_not_stopped()
        self._started.add(name)
        return cached

    def passed(self, name: str, steps: int) -> None:
        """Note that the first `steps` steps of `name` are in the cache."""
        with self._changed:
            if steps > self._steps.get(name, 0):
                self._steps[name] = steps
                self._changed.notify_all()

    def built(self, name: str) -> None:
        """Note that all steps of `name` are in the cache."""
        with self._changed:
            if name in self._state:
                self._state[name] = "ended"
                self._changed.notify_all()

    def end(self, name: str, *, failed_step: int | None = None) -> None:
        """Note that `name` has ended; `failed_step` (from 1) is the step that failed, if any."""
        if failed_step is not None and name in self._state:
            self._failed[name] = failed_step
        self.built(name)
        if name in self._started:
            self._started.remove(name)
            self._free.release()

    def _shared(self, name: str, other: str) -> int:
        return common_steps(self._keys[name], self._keys[other])

    def _cached(self, name: str) -> int:
        others = (other for other in self._keys if other != name)
        return max((min(self._shared(name, o), self._steps[o]) for o in others), default=0)

    def _ahead(self, name: str) -> tuple[str, int] | None:
        """Return the build to wait for and the number of shared steps, or None."""
        if name not in self._keys:
            return None
        cached, before = self._cached(name), True
        ahead: tuple[str, int] | None = None
        for other, state in self._state.items():
            if other == name:
                before = False
                continue
            shared = self._shared(name, other)
            runs_first = state == "running" or (state == "waiting" and before)
            if runs_first and shared > max(cached, ahead[1] if ahead else 0):
                ahead = other, shared
        return ahead
