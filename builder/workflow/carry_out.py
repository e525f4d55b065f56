"""Carrying a plan out: each variant on its own, side by side, in the one order that is safe."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass
from typing import Any

from builder import plan, record, registry, render, verify
from builder.errors import (
    BlockedError,
    BuildError,
    InterruptedRunError,
    StepError,
    TemplateError,
    VerifyError,
    about,
    counted,
    from_os_error,
)
from builder.plan.schedule import Schedule
from builder.project import Project
from builder.registry import history
from builder.registry.holds import Hold
from builder.system import processes, provenance
from builder.system.events import Event, Reporter
from builder.system.files import ignored
from builder.system.logs import Log
from builder.targets.measures import keep_measures
from builder.targets.protocol import BuildInput, OvertakenError, Publication, Target
from builder.workflow.prepare import Prepared, read_registry

__all__ = ["Outcome", "build"]

# What is left of an interrupted run after that are requests that nobody answers.
_CLEAN_UP_SECONDS = 20.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How one variant ended: `fields` is its record, `error` why there is none, `held` and
    `overtaken` why the channel does not point at it."""

    name: str
    action: str
    ref: str | None = None
    digest: str | None = None
    seconds: float = 0.0
    fields: Mapping[str, Any] | None = None
    held: Hold | None = None
    overtaken: str | None = None
    error: TemplateError | None = None

    def to_json(self) -> dict[str, Any]:
        """The outcome as plain values."""
        return {
            "name": self.name,
            "action": self.action,
            "ref": self.ref,
            "digest": self.digest,
            "seconds": round(self.seconds, 3),
            "held": self.held.to_json() if self.held else None,
            "overtaken": self.overtaken,
            "record": dict(self.fields) if self.fields else None,
            "error": self.error.to_json() if self.error else None,
        }


def build(
    project: Project,
    prepared: Prepared,
    planned: plan.Plan,
    target: Target,
    *,
    jobs: int | None,
    all_variants: bool,
    report: Reporter,
    release: bool = False,
    require_cache: bool = False,
) -> list[Outcome]:
    """Carry the plan out, `jobs` builds at a time (None: as many as the target takes); what a
    variant renders to is written to `generated/` once it is built, or found to be. `release` moves
    channels that are on hold, and lifts that.

    The outcomes are in the plan's order. Raises `StorageError` before anything is built when
    `generated/` cannot be written, and passes on an interrupt after everything was cleaned up.
    """
    rendered = [one for one in prepared.values() if isinstance(one, render.Rendered)]
    render.check_place(rendered, project.generated)
    ignored(project.state)
    target.tidy()
    to_build = {one.name: one.step_keys for one in planned.variants if one.action == "build"}
    run = _Run(
        project=project,
        planned=planned,
        target=target,
        release=release,
        require_cache=require_cache,
        report=report,
        schedule=Schedule(to_build if target.steps_cached else {}),
        slots=threading.Semaphore(jobs or target.jobs),
    )
    outcomes: dict[str, Outcome] = {}
    # A thread each: those that wait for a step that another one runs must not keep it from it.
    pool = ThreadPoolExecutor(max_workers=len(planned.variants) or 1)
    running: set[Future[Outcome]] = set()
    try:
        with processes.interruptible():
            running |= {
                pool.submit(run.carry_out, one, prepared[one.name]) for one in planned.variants
            }
            for future in as_completed(running):
                outcome = future.result()
                outcomes[outcome.name] = outcome
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        wait(running, timeout=_CLEAN_UP_SECONDS)
        raise
    pool.shutdown()
    if all_variants and len(rendered) == len(prepared):
        render.prune(rendered, project.generated)
    return [outcomes[one.name] for one in planned.variants]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    """One run of `build`: what all its variants have in common."""

    project: Project
    planned: plan.Plan
    target: Target
    release: bool
    require_cache: bool
    report: Reporter
    schedule: Schedule
    slots: threading.Semaphore

    def carry_out(
        self, planned: plan.PlannedVariant, prepared: render.Rendered | TemplateError
    ) -> Outcome:
        """Do what was planned for one variant, and tell how it ended; never raises a failure."""
        name, start = planned.name, time.perf_counter()
        failed_step: int | None = None
        try:
            done = self._attempt(planned, prepared)
            if isinstance(prepared, render.Rendered):
                render.write([prepared], self.project.generated, all_variants=False)
        except OSError as error:
            failure: TemplateError = from_os_error(error, f"building `{name}`")
        except TemplateError as error:
            failure = error
            failed_step = error.step if isinstance(error, StepError) else None
        except Exception as error:  # noqa: BLE001 - one's surprise must not stop the others
            failure = BuildError(
                f"building `{name}` ended in an error that this program did not foresee:"
                f" {type(error).__name__}: {error}",
                hint=f"please report it, with what `template-builder logs {name}` says",
            )
        else:
            seconds = time.perf_counter() - start
            if done.overtaken:
                self.report(Event(kind="warning", variant=name, text=done.overtaken))
            self.report(Event(kind="done", variant=name, text=done.action, seconds=seconds))
            return dataclasses.replace(done, digest=planned.digest, seconds=seconds)
        finally:
            self.schedule.end(name, failed_step=failed_step)
        if processes.stopped():
            failure = InterruptedRunError("interrupted")
        self.report(Event(kind="failed", variant=name, text=failure.headline))
        return Outcome(
            name=name,
            action="failed",
            digest=planned.digest,
            seconds=time.perf_counter() - start,
            error=failure,
        )

    def _attempt(
        self, planned: plan.PlannedVariant, prepared: render.Rendered | TemplateError
    ) -> Outcome:
        name, channel = planned.name, self.planned.channel
        if isinstance(prepared, TemplateError):
            raise prepared
        if planned.action == "blocked":
            raise BlockedError(about(name, str(planned.reasons[0])))
        with self.target.claimed(name):
            if planned.action == "build":
                made = self._recorded_meanwhile(planned)
                if made and not planned.forced:
                    return Outcome(name=name, action="skipped", ref=made[0], fields=made[1])
                return self._build(planned, prepared)
            ref = planned.retag or planned.ref
            assert ref is not None
            fields = self._still_recorded(planned, ref)
            self._forget(name, fields.get("build_id", ""))  # a run was killed before it
            by = provenance.actor(self.project.root)
            if planned.action == "retag":
                # Whatever this registry knows was there before the plan was made.
                known = history.build_ids(self._recorded(name))
                try:
                    record.move(
                        self.project.registry,
                        name=name,
                        target=self.planned.target,
                        channel=channel,
                        ref=ref,
                        action="promote",
                        by=by,
                        reason=str(planned.reasons[0]) if planned.reasons else None,
                        release=self.release,
                        publish=self._publisher(name, over=known),
                    )
                except OvertakenError as error:
                    return Outcome(
                        name=name,
                        action="skipped",
                        ref=ref,
                        fields=fields,
                        overtaken=f"`{ref}` was not moved to: {error}",
                    )
                return Outcome(name=name, action="retagged", ref=ref, fields=fields)
            if self.release and planned.held:
                record.unhold(
                    self.project.registry,
                    name=name,
                    target=self.planned.target,
                    channel=channel,
                    by=by,
                )
            return Outcome(
                name=name,
                action="skipped",
                ref=ref,
                fields=fields,
                held=planned.held if ref != planned.ref else None,
            )

    def _publisher(self, name: str, *, over: Collection[str] = frozenset()) -> record.Publish:
        def publish(fields: Mapping[str, Any], channel: str | None) -> record.TakeBack | None:
            return self.target.publish(
                Publication(name=name, fields=fields, channel=channel, over=over)
            )

        return publish

    def _forget(self, name: str, build_id: str) -> None:
        """Have no run take a build up again."""
        if self.target.journal:
            self.target.journal.forget(name, build_id)

    def _build(self, planned: plan.PlannedVariant, prepared: render.Rendered) -> Outcome:
        """Build, verify, publish, record: in this order, so that what fails is found before it is
        seen by anybody."""
        name, target, report = planned.name, self.target, self.report
        with Log(self.project.state / "logs" / name, target=self.planned.target) as log:
            for reason in planned.reasons:
                log.line(f"because: {reason}")
            shared = self.schedule.start(name, self._waiting(name))
            with self._slot():
                context = self.project.state / "context" / name
                if target.steps_cached:
                    render.write_files(prepared, context)
                order = BuildInput(
                    rendered=prepared,
                    folder=context,
                    force=planned.forced,
                    program=planned.program,
                    step_keys=planned.step_keys,
                    shared=shared,
                    expected_cached=max(shared, planned.cached_before),
                    require_cache=self.require_cache,
                    unwanted=self._revoked(name),
                    passed=lambda steps: self.schedule.passed(name, steps),
                )
                built = target.build(order, report=report, log=log)
                self.schedule.end(name)
                try:
                    verified = verify.verify(built, prepared, target, report=report, log=log)
                except VerifyError:
                    self._forget(name, built.build_id)  # it was found wanting
                    raise
            processes.check_not_stopped()
            keep_measures(built, verified.measures)
            recorded = record.record(
                self.project.registry,
                verified,
                prepared,
                by=provenance.actor(self.project.root),
                source=provenance.source(self.project.root),
                channel=self.planned.channel,
                release=self.release,
                publish=self._publisher(name, over=self._revoked(name)),
            )
            self._forget(name, built.build_id)
            log.line(f"recorded {built.ref}")
            overtaken = None
            if recorded.overtaken:
                overtaken = f"`{built.ref}` is recorded and overtaken: {recorded.overtaken}"
                log.line(overtaken)
        return Outcome(
            name=name,
            action="built",
            ref=built.ref,
            fields=recorded.fields,
            held=recorded.hold,
            overtaken=overtaken,
        )

    def _recorded(self, name: str) -> Mapping[str, Any]:
        templates = read_registry(self.project).templates
        found: Mapping[str, Any] = templates.get(name, {}).get(self.planned.target, {})
        return found

    def _still_recorded(self, planned: plan.PlannedVariant, ref: str) -> Mapping[str, Any]:
        """The record of `ref`, which the plan was made with. Raises `BuildError`."""
        entry = self._recorded(planned.name)
        fields: Mapping[str, Any] = entry.get("builds", {}).get(ref, {})
        now = entry.get("channels", {}).get(self.planned.channel)
        if (
            now != planned.ref
            or (fields.get("digest") != planned.digest and ref != planned.ref)
            or registry.revoked_because(fields)
        ):
            raise BuildError(
                f"what {os.path.basename(self.project.registry)} says of `{planned.name}` has"
                " changed since the plan was made",
                hint="run the same command again",
            )
        return fields

    def _revoked(self, name: str) -> frozenset[str]:
        builds = self._recorded(name).get("builds", {}).values()
        return frozenset(
            one["build_id"] for one in builds if registry.revoked_because(one) and "build_id" in one
        )

    def _recorded_meanwhile(
        self, planned: plan.PlannedVariant
    ) -> tuple[str, Mapping[str, Any]] | None:
        """What another process has recorded of the same digest since the plan was made."""
        entry = self._recorded(planned.name)
        ref = entry.get("channels", {}).get(self.planned.channel)
        fields = entry.get("builds", {}).get(ref, {})
        same = fields.get("digest") == planned.digest and not registry.revoked_because(fields)
        return (ref, fields) if ref != planned.ref and same else None

    def _waiting(self, name: str) -> Callable[[str, int], None]:
        def waiting(other: str, steps: int) -> None:
            text = (
                f"waiting for `{other}` to run the first {counted(steps, 'step')}, which they share"
            )
            self.report(Event(kind="step", variant=name, text=text))

        return waiting

    @contextlib.contextmanager
    def _slot(self) -> Iterator[None]:
        while not self.slots.acquire(timeout=0.5):
            processes.check_not_stopped()
        try:
            yield
        finally:
            self.slots.release()
