"""Make one build on E2B: start it or find it, follow its log to the end, and report the result."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from dataclasses import dataclass

from builder.errors import BuildError, CacheMissError
from builder.registry import Ref
from builder.system.events import Event, Reporter
from builder.system.logs import Log
from builder.system.processes import pause
from builder.targets.e2b.blame import (
    SHOWN_CHARACTERS,
    failure_of,
    instruction,
    is_cancelled,
    is_own_fault,
)
from builder.targets.e2b.build_log import BuildLog
from builder.targets.e2b.cloud import BuildState, Cloud
from builder.targets.e2b.code_service import service_notes
from builder.targets.e2b.program import not_provided
from builder.targets.e2b.starting import ATTEMPTS, POLL_SECONDS, CloudBuild, Starter
from builder.targets.journal import Journal
from builder.targets.protocol import BuildInput, Built

# E2B ends a build after an hour.
_LONGEST_SECONDS = 75 * 60.0
# How long the log may be silent before the tags are checked: the build may have been replaced.
_QUIET_SECONDS = 5.0
_YIELD_SECONDS = (0.3, 3.0)


@dataclass(kw_only=True)
class Building:
    """The making of one build. Use it from one thread, under the claim of its name."""

    order: BuildInput
    target: str
    cloud: Cloud
    journal: Journal
    report: Reporter
    log: Log

    def __post_init__(self) -> None:
        variant, program = self.order.rendered.variant, self.order.program
        assert program is not None
        self._name, self._steps = variant.name, len(program.steps)
        self._unsupported = tuple(
            f"not provided by {self.target}: {line}"
            for line in (*service_notes(variant), *not_provided(variant))
        )
        self._starter = Starter(
            order=self.order, cloud=self.cloud, journal=self.journal, log=self.log, say=self._say
        )

    def make(self) -> Built:
        """Return the build, new or found.

        Raises `StepError`, `CacheMissError`, `BuildError` and what `Cloud` raises; the next run
        resumes what E2B is still doing then.
        """
        start = time.monotonic()
        self._warn(self._unsupported)
        replaced = retried = False
        for _ in range(ATTEMPTS):
            build = self._starter.existing(replaced=replaced) or self._starter.start()
            log = BuildLog(steps=self._steps, passed=self.order.passed)
            state = self._follow(build, log) if build else None
            if build is None or state is None:
                replaced = True
                self._say("another machine started the same build: waiting for that one")
                # Machines that keep replacing each other's build: chance lets one finish.
                pause(random.uniform(*_YIELD_SECONDS))  # noqa: S311 - no secret
            elif state.status == "ready":
                self.order.passed(self._steps)
                return self._built(build, log, time.monotonic() - start)
            elif is_own_fault(state) and not retried:
                retried = True
                self._say("E2B reported an internal error: trying once more")
            else:
                self.journal.remove(self._name)
                raise failure_of(self.order, self.target, build.build_id, state, log)
        raise BuildError(
            f"the build of `{self._name}` was replaced {ATTEMPTS} times by others of its digest",
            hint="another machine builds the same template over and over: stop one of them",
        )

    def _follow(self, build: CloudBuild, log: BuildLog) -> BuildState | None:
        """Read the log until the build has ended and the log is complete.

        Return None if the build was replaced: E2B cancels a build when a newer one with its tag
        starts.
        """
        offset, empty, begins = 0, 0, True
        moved = time.monotonic()
        deadline = time.monotonic() + _LONGEST_SECONDS
        while True:
            state = self._state(build, offset)
            log.times.extend(state.times)
            for line in state.lines:
                self.log.line(line)
                self._show(log, log.read(line), quiet=build.state.status == "ready")
            offset += len(state.lines)
            empty = 0 if state.lines else empty + 1
            # One response without lines may be a lost one; two are the end.
            if state.status in ("ready", "error") and empty > 1:
                replaced = is_cancelled(state) and self._starter.is_replaced(build.build_id)
                return None if replaced else state
            if state.lines:
                moved = time.monotonic()
            elif state.status == "building" and time.monotonic() - moved > _QUIET_SECONDS:
                if self._starter.has_successor(build):
                    return None
                moved = time.monotonic()
            elif state.status == "waiting" and begins and time.monotonic() - moved > _QUIET_SECONDS:
                begins = False
                self._say("waiting for E2B to begin the build")
            if time.monotonic() > deadline:
                raise BuildError(
                    f"build {build.build_id} of `{self._name}` did not finish within"
                    f" {_LONGEST_SECONDS / 60:.0f} minutes",
                    hint="run the same command again to keep waiting for it",
                )
            if not state.lines and state.status not in ("ready", "error"):
                pause(POLL_SECONDS)

    def _state(self, build: CloudBuild, offset: int) -> BuildState:
        try:
            return self.cloud.state(build.template_id, build.build_id, offset)
        except BuildError as error:
            if self._starter.is_tagged():
                raise
            hint = "somebody deleted the template, or the build's tag: run the same command again"
            raise BuildError(error.message, hint=hint) from error

    def _show(self, log: BuildLog, step: int | None, *, quiet: bool) -> None:
        if quiet:
            return
        if step is None:
            text = log.last[-1][:SHOWN_CHARACTERS] if log.last else ""
            self.report(Event(kind="detail", variant=self._name, text=text))
            return
        origin = ", from the cache" if step in log.cached else ""
        instructed = instruction(self.order, str(step))[1]
        text = f"step {step} of {log.steps}{origin}: {instructed}"
        self.report(Event(kind="step", variant=self._name, text=text))

    def _built(self, build: CloudBuild, log: BuildLog, seconds: float) -> Built:
        order, entry = self.order, self._starter.entry
        # Nothing was expected of a build that another machine started.
        expected = entry.expected_cached if build.ours and entry and not entry.forced else 0
        missed = sorted(number for number in log.ran if number <= expected)
        warnings: tuple[str, ...] = ()
        if missed:
            steps = ", ".join(map(str, missed))
            uncached = f"steps that should have come from the cache ran again: {steps}"
            if order.require_cache:
                raise CacheMissError(
                    f"`{self._name}` was built, but {uncached}",
                    hint="it is not published; run the command without --require-cache to use it",
                )
            warnings = (uncached,)
            self._warn(warnings)
        return Built(
            name=self._name,
            target=self.target,
            ref=Ref(f"{build.template_id}:{build.build_id}"),
            template_id=build.template_id,
            build_id=build.build_id,
            digest=order.rendered.digest,
            # This run has seen only the end of a resumed build; the log has its times.
            seconds=round(seconds if build.new else log.seconds(), 3),
            reused=build.state.status == "ready",
            size=None,
            warnings=(*warnings, *self._unsupported),
            steps=order.step_keys,
            cached=len(log.cached),
            base_fetched=log.base_fetched,
        )

    def _warn(self, texts: Iterable[str]) -> None:
        for text in texts:
            self.report(Event(kind="warning", variant=self._name, text=text))

    def _say(self, text: str) -> None:
        self.log.line(text)
        self.report(Event(kind="step", variant=self._name, text=text))
