"""One build on E2B: begun or found under way, followed to its end, its log read for what happened.

Before anything is waited for, its IDs are in the journal; and a build of the same digest that
somebody has begun already, here or on another machine, is followed instead of begun again.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

from builder.errors import BuildError, CacheMissError, NetworkError, StepError, TemplateError
from builder.registry import Ref
from builder.system.events import Event, Reporter
from builder.system.logs import Log
from builder.system.processes import pause
from builder.targets.e2b.cloud import BuildState, Cloud
from builder.targets.e2b.following import Followed
from builder.targets.e2b.program import instruction, not_provided, origin, template_of
from builder.targets.journal import Entry, Journal
from builder.targets.protocol import BuildInput, Built

_POLL_SECONDS = 0.2
# E2B ends a build after an hour.
_LONGEST_SECONDS = 75 * 60.0
# How long a build that somebody has asked for may take to begin, its files being uploaded.
_BEGIN_SECONDS = 10.0
# Asking for a build takes some calls, any of which may meet a fault.
_ATTEMPTS = 8
# How long the log may stand still before it is looked up whether the build has been overtaken.
_QUIET_SECONDS = 5.0
_SHOWN_CHARACTERS = 300
# Of a build that was running, and of one that was waiting; neither names a step.
_CANCELLED = re.compile(r"\bcancell?ed\b")
_INTERNAL = "An internal error occurred"
_YIELD_SECONDS = (0.3, 3.0)
_PHASES = {
    "base": "the base image",
    "resize-disk": "enlarging the disk, after the steps,",
    "optimize": "optimizing the snapshot, after the steps,",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class _CloudBuild:
    template_id: str
    build_id: str
    state: BuildState
    ours: bool = True
    begun_here: bool = False


class _OvertakenError(BuildError):
    """Another build has the place of one that was about to start."""


class Building:
    """The making of one build. Use it from one thread, under the claim of its name."""

    def __init__(
        self,
        order: BuildInput,
        *,
        target: str,
        cloud: Cloud,
        journal: Journal,
        report: Reporter,
        log: Log,
    ) -> None:
        assert order.program is not None
        self._order, self._program, self._target = order, order.program, target
        self._cloud, self._journal = cloud, journal
        self._report, self._log = report, log
        self._name = order.rendered.variant.name
        self._digest = order.rendered.digest
        self._entry: Entry | None = None
        self._unsupported = tuple(
            f"not provided by {target}: {line}" for line in not_provided(order.rendered.variant)
        )

    def make(self) -> Built:
        """Make the build, or find it made. Raises `StepError`, `CacheMissError`, `BuildError`, and
        what `Cloud` raises; what E2B is still doing then, the next run takes up."""
        start = time.monotonic()
        self._warn(self._unsupported)
        overtaken = tried_again = False
        for _ in range(_ATTEMPTS):
            build = self._under_way(overtaken=overtaken) or self._begin()
            followed = Followed(steps=len(self._program.steps), passed=self._order.passed)
            state = self._follow(build, followed) if build else None
            if build is None or state is None:
                overtaken = True
                self._say("somebody else has asked for the same build since: following that one")
                # Two that ask in turn cancel each other's; by chance, one comes to its end.
                pause(random.uniform(*_YIELD_SECONDS))  # noqa: S311 - no secret
            elif state.status == "ready":
                reused = build.state.status == "ready"
                self._order.passed(len(self._program.steps))
                return self._built(build, followed, time.monotonic() - start, reused)
            elif state.message.startswith(_INTERNAL) and not tried_again:
                tried_again = True
                self._say("E2B met an error of its own: asking once more")
            else:
                self._journal.remove(self._name)
                raise self._failed(build, followed, state)
        raise BuildError(
            f"the build of `{self._name}` was overtaken {_ATTEMPTS} times by others of its digest",
            hint="somebody else builds the same template over and over: settle who does",
        )

    def _under_way(self, *, overtaken: bool) -> _CloudBuild | None:
        """A build of this digest that is finished or will be, ours first; `overtaken` by one that
        somebody else has asked for, with --force that one, too."""
        entry, force = self._journal.read(self._name), self._order.force
        self._entry = entry if entry and entry.digest == self._digest else None
        if self._entry and (self._entry.forced or not force):
            taken_up = self._own_build()
            if taken_up and taken_up.build_id not in self._order.unwanted and not overtaken:
                self._say(f"taking up build {taken_up.build_id} of an earlier run")
                return taken_up
        if force and not overtaken:
            return None
        build = self._elsewhere()
        if build:
            done = "is there already" if build.state.status == "ready" else "is under way elsewhere"
            self._say(f"build {build.build_id} of the same digest {done}")
            self._entry = self._journal.begin(self._name, self._digest)
            self._identified(build.template_id, build.build_id)
        return build

    def _tagged(self) -> str | None:
        """The build of the digest that was asked for last. E2B reads tags from its database, and
        the state of a build from a cache, which may be minutes old."""
        return (self._cloud.tags(self._name) or {}).get(self._digest.tag)

    def _elsewhere(self) -> _CloudBuild | None:
        """The build of the digest that was asked for last, unless it failed or does not begin."""
        deadline = time.monotonic() + _BEGIN_SECONDS
        while True:
            build_id = self._tagged()
            if build_id is None or build_id in self._order.unwanted:
                return None
            template_id = self._cloud.template_id(self._name)
            if template_id is None:
                return None
            try:
                state = self._cloud.state(template_id, build_id, 0)
            except BuildError:
                return None  # E2B does not know it any more
            if state.status in ("building", "ready"):
                return _CloudBuild(
                    template_id=template_id, build_id=build_id, state=state, ours=False
                )
            if state.status != "waiting" or time.monotonic() >= deadline:
                return None
            pause(_POLL_SECONDS)

    def _begin(self) -> _CloudBuild | None:
        """Ask for the build and start it, through faults of the way there; None when somebody else
        has asked for the same meanwhile, which cancels ours."""
        order, variant = self._order, self._order.rendered.variant
        for attempt in range(1, _ATTEMPTS + 1):
            self._entry = self._journal.begin(
                self._name, self._digest, forced=order.force, expected_cached=order.expected_cached
            )
            try:
                template_id, build_id = self._cloud.start(
                    template_of(order),
                    order.folder,
                    name=self._name,
                    tag=self._digest.tag,
                    cpu=variant.cpu,
                    memory_mb=variant.memory_mb,
                    free_disk_mb=variant.free_disk_mb,
                    force=order.force and order.shared == 0,
                    tell=self._log.line,
                    identified=self._identified,
                    uploaded=self._check_not_overtaken,
                )
            except (BuildError, NetworkError) as error:
                # It may have been started all the same: the answer alone got lost.
                if build := self._own_build():
                    return build
                if isinstance(error, _OvertakenError) or self._is_overtaken():
                    return None
                if attempt == _ATTEMPTS or isinstance(error, BuildError):
                    if self._entry and not self._entry.build_id:
                        self._journal.remove(self._name)
                    raise
                self._log.line(f"{error.message}; trying again")
                pause(0.5 * attempt)
            else:
                state = BuildState(status="building")
                self._say(f"build {build_id} is begun")
                return _CloudBuild(
                    template_id=template_id, build_id=build_id, state=state, begun_here=True
                )
        raise AssertionError("unreachable")

    def _is_overtaken(self) -> bool:
        asked_for = self._entry.build_id if self._entry else None
        return asked_for is not None and self._tagged() not in (None, asked_for)

    def _check_not_overtaken(self) -> None:
        # E2B lets even a start that it refuses cancel the build that took this one's place.
        if self._is_overtaken():
            raise _OvertakenError(f"the build of `{self._name}` was overtaken before it began")

    def _own_build(self) -> _CloudBuild | None:
        """The build of the entry, where it is under way or finished."""
        entry = self._entry
        if entry is None or not entry.template_id or not entry.build_id:
            return None
        try:
            state = self._cloud.state(entry.template_id, entry.build_id, 0)
        except BuildError:
            return None
        if state.status not in ("building", "ready"):
            return None
        return _CloudBuild(template_id=entry.template_id, build_id=entry.build_id, state=state)

    def _identified(self, template_id: str, build_id: str) -> None:
        entry = self._entry or self._journal.begin(self._name, self._digest)
        if (entry.template_id, entry.build_id) != (template_id, build_id):
            entry = self._journal.write(replace(entry, template_id=template_id, build_id=build_id))
        self._entry = entry

    def _follow(self, build: _CloudBuild, followed: Followed) -> BuildState | None:
        """Read the log until the build has ended, and then to the log's end; None when it was
        cancelled, as E2B does with a build when a newer one of its tag starts."""
        offset, empty, begins = 0, 0, True
        moved = time.monotonic()
        deadline = time.monotonic() + _LONGEST_SECONDS
        while True:
            state = self._cloud.state(build.template_id, build.build_id, offset)
            followed.times.extend(state.times)
            for line in state.lines:
                self._log.line(line)
                self._show(followed, followed.line(line), quiet=build.state.status == "ready")
            offset += len(state.lines)
            empty = 0 if state.lines else empty + 1
            # At its end, an answer without lines may be one that got lost: a second one is not.
            if state.status in ("ready", "error") and empty > 1:
                cancelled = not state.step and _CANCELLED.search(state.message)
                return None if state.status == "error" and cancelled else state
            if state.lines:
                moved = time.monotonic()
            elif state.status == "building" and time.monotonic() - moved > _QUIET_SECONDS:
                if self._replaced(build):
                    return None
                moved = time.monotonic()
            elif state.status == "waiting" and begins and time.monotonic() - moved > _QUIET_SECONDS:
                begins = False
                self._say("E2B has not begun the build yet: waiting")
            if time.monotonic() > deadline:
                raise BuildError(
                    f"build {build.build_id} of `{self._name}` did not end within"
                    f" {_LONGEST_SECONDS / 60:.0f} minutes",
                    hint="the next run looks at it again",
                )
            if not state.lines and state.status not in ("ready", "error"):
                pause(_POLL_SECONDS)

    def _replaced(self, build: _CloudBuild) -> bool:
        """Whether a newer build of the digest has started, which ends this one."""
        newer = self._tagged()
        if newer in (None, build.build_id):
            return False
        state = self._cloud.state(build.template_id, newer, 0)
        return state.status in ("building", "ready")

    def _show(self, followed: Followed, step: int | None, *, quiet: bool) -> None:
        if quiet:
            return
        if step is None:
            text = followed.last[-1][:_SHOWN_CHARACTERS] if followed.last else ""
            self._report(Event(kind="detail", variant=self._name, text=text))
            return
        instructed = instruction(self._order, str(step))[1]
        text = f"step {step} of {followed.steps}: {instructed}"
        if step in followed.cached:
            text = f"step {step} of {followed.steps}, from the cache: {instructed}"
        self._report(Event(kind="step", variant=self._name, text=text))

    def _built(self, build: _CloudBuild, followed: Followed, seconds: float, reused: bool) -> Built:
        order, entry = self._order, self._entry
        # A build that others began ran under their conditions, of which nothing was expected.
        checked = build.ours and entry is not None and not entry.forced
        missed = followed.missed(entry.expected_cached) if entry and checked else []
        warnings: tuple[str, ...] = ()
        if missed:
            steps = ", ".join(map(str, missed))
            uncached = f"not from the cache, though it should have been: step {steps}"
            if order.require_cache:
                raise CacheMissError(
                    f"`{self._name}` was built, but {uncached}",
                    hint="it is not published; without --require-cache the same command takes it",
                )
            warnings = (uncached,)
            self._warn(warnings)
        return Built(
            name=self._name,
            target=self._target,
            ref=Ref(f"{build.template_id}:{build.build_id}"),
            template_id=build.template_id,
            build_id=build.build_id,
            digest=self._digest,
            # Of a build that was taken up, this run has seen the end alone; its log has all of it.
            seconds=round(seconds if build.begun_here else followed.seconds(), 3),
            reused=reused,
            size=None,
            warnings=(*warnings, *self._unsupported),
            steps=order.step_keys,
            cached=len(followed.cached),
            base_fetched=followed.base_fetched,
        )

    def _failed(self, build: _CloudBuild, followed: Followed, state: BuildState) -> TemplateError:
        phase = state.step or followed.at()
        number, instructed = instruction(self._order, phase)
        if number:
            where = f"step {number} of {len(self._program.steps)}"
        else:
            where = _PHASES.get(phase or "", "what comes after the steps")
        # Where the steps say nothing of it, neither does the spec.
        after = phase in ("resize-disk", "optimize")
        # E2B repeats the whole command, which can be pages long.
        command = self._program.steps[number - 1].args[0] if number else ""
        reason = state.message.removeprefix(f"failed to run command '{command}': ")
        unnamed = bool(state.message and not state.step)
        failure = f"the build failed on {self._target}, at {where}"
        lines = [
            (failure if unnamed else f"{where} failed on {self._target}")
            + ("" if after else f": {instructed}"),
            *([] if after else (f"  {place}" for place in origin(self._order, number))),
            f"  E2B says: {reason or 'nothing'}",
            *(f"  | {line[:_SHOWN_CHARACTERS]}" for line in followed.last),
        ]
        message = "\n".join(lines)
        if state.message.startswith(_INTERNAL):
            hint = f"E2B's support can look into build {build.build_id}; later, run it again"
            return BuildError(message, hint=hint)
        hint = f"`template-builder logs {self._name}` has the whole log of build {build.build_id}"
        if unnamed:
            return BuildError(message, hint=hint)
        return StepError(message, step=number, hint=hint)

    def _warn(self, texts: Iterable[str]) -> None:
        for text in texts:
            self._report(Event(kind="warning", variant=self._name, text=text))

    def _say(self, text: str) -> None:
        self._log.line(text)
        self._report(Event(kind="step", variant=self._name, text=text))
