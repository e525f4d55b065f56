"""Carry out a plan, all variants in parallel."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from builder import render
from builder.errors import (
    BlockedError,
    BuildError,
    InterruptedRunError,
    StepError,
    TemplateError,
    about,
    from_os_error,
)
from builder.plan import Plan, PlannedVariant, Reason
from builder.plan.schedule import Schedule
from builder.registry import Ref, history
from builder.registry.model import Build, Entry
from builder.system import processes, provenance
from builder.system.events import Event
from builder.system.files import ignored
from builder.system.logs import Log
from builder.targets.protocol import OvertakenError
from builder.workflow.building import forget
from builder.workflow.context import Context
from builder.workflow.parents import generations
from builder.workflow.sequence import EACH, PREPARE, execute
from builder.workflow.values import Attempt, BuildReport, BuildRequest, Outcome, Prepared

if TYPE_CHECKING:
    from builder.record import Change
    from builder.spec import Variant

# After this time, only unanswered requests of an interrupted run remain.
_CLEAN_UP_SECONDS = 20.0

Stages = Sequence[Callable[[Attempt, Context], Attempt]]


def build_all(request: BuildRequest, context: Context) -> BuildReport:
    """Run the whole sequence. The error of a variant that fails is in its outcome.

    Raise errors that affect all variants; that of an unreadable registry comes before any work.
    """
    context.connected()
    context.registry.now()
    selected = execute(PREPARE[:1], Prepared(request=request), context)
    groups = generations(selected.variants)
    if len(groups) < 2:
        return carry_out(execute(PREPARE[1:], selected, context), context)
    return _in_order(groups, selected, context)


def _in_order(
    groups: Sequence[Sequence[Variant]], selected: Prepared, context: Context
) -> BuildReport:
    """Build each group of variants after those that it is from, which must have been built."""
    planned: list[PlannedVariant] = []
    outcomes: list[Outcome] = []
    rendered: list[render.Rendered] = []
    failed: set[str] = set()
    for group in groups:
        for variant in group:
            if variant.parent_name in failed:
                why = f"`{variant.parent_name}`, which it is from, was not built"
                error = BlockedError(about(variant.name, why))
                context.report(Event(kind="failed", variant=variant.name, text=error.headline))
                outcomes.append(Outcome(name=variant.name, action="failed", error=error))
                reasons = (Reason(kind="state", subject=why),)
                planned.append(PlannedVariant(name=variant.name, action="blocked", reasons=reasons))
        left = tuple(variant for variant in group if variant.parent_name not in failed)
        if left:
            # Only names, so that the folders of the other variants stay.
            request = replace(selected.request, names=[variant.name for variant in left])
            part = replace(selected, request=request, variants=left)
            prepared = execute(PREPARE[1:], part, context)
            report = carry_out(prepared, context)
            planned += report.plan.variants
            outcomes += report.outcomes
            rendered += prepared.rendered
        failed |= {outcome.name for outcome in outcomes if outcome.error}
    if not selected.request.names and len(rendered) == len(selected.variants):
        render.prune(rendered, context.project.generated)
    plan = Plan(
        target=context.target_name,
        channel=selected.request.channel,
        variants=tuple(sorted(planned, key=lambda variant: variant.name)),
    )
    return BuildReport(plan=plan, outcomes=tuple(sorted(outcomes, key=lambda each: each.name)))


def carry_out(prepared: Prepared, context: Context, stages: Stages = EACH) -> BuildReport:
    """Carry out the plan: variants to build go through `stages`, and the files of each variant are
    written to `generated/` once its build exists.

    Raise `StorageError` before any build if `generated/` cannot be written, and re-raise an
    interrupt after cleaning up.
    """
    project, planned, target = context.project, prepared.plan, context.connected()
    assert planned
    render.check_place(prepared.rendered, project.generated)
    ignored(project.state)
    target.tidy()
    steps = {
        variant.name: variant.step_keys
        for variant in planned.variants
        if variant.action == "build" and target.steps_cached
    }
    run = _Run(
        context=context,
        request=prepared.request,
        results=prepared.results,
        stages=stages,
        schedule=Schedule(steps, jobs=prepared.request.jobs or target.jobs, report=context.report),
    )
    outcomes: dict[str, Outcome] = {}
    # A thread for each variant, since some wait for the shared steps of others.
    pool = ThreadPoolExecutor(max_workers=len(planned.variants) or 1)
    running: set[Future[Outcome]] = set()
    try:
        with processes.interruptible():
            running |= {pool.submit(run.outcome_of, variant) for variant in planned.variants}
            for future in as_completed(running):
                outcome = future.result()
                outcomes[outcome.name] = outcome
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        wait(running, timeout=_CLEAN_UP_SECONDS)
        raise
    pool.shutdown()
    if prepared.complete:
        render.prune(prepared.rendered, project.generated)
    in_order = tuple(outcomes[variant.name] for variant in planned.variants)
    return BuildReport(plan=planned, outcomes=in_order)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    """What all variants of a run share."""

    context: Context
    request: BuildRequest
    results: Mapping[str, render.Rendered | TemplateError]
    stages: Stages
    schedule: Schedule

    def outcome_of(self, planned: PlannedVariant) -> Outcome:
        """Carry out the plan for one variant; errors are in the outcome."""
        name, start, report = planned.name, time.perf_counter(), self.context.report
        failed_step: int | None = None
        try:
            rendered = self.results[name]
            if isinstance(rendered, TemplateError):
                raise rendered
            done = self._attempt(planned, rendered)
            render.write([rendered], self.context.project.generated, all_variants=False)
        except OSError as error:
            failure: TemplateError = from_os_error(error, f"building `{name}`")
        except TemplateError as error:
            failure = error
            failed_step = error.step if isinstance(error, StepError) else None
        except Exception as error:  # noqa: BLE001 - the other variants must go on
            failure = BuildError(
                f"building `{name}` failed unexpectedly: {type(error).__name__}: {error}",
                hint=f"please report it with the output of `template-builder logs {name}`",
            )
        else:
            seconds = time.perf_counter() - start
            if done.overtaken:
                report(Event(kind="warning", variant=name, text=done.overtaken))
            report(Event(kind="done", variant=name, text=done.action, seconds=seconds))
            return replace(done, digest=planned.digest, seconds=seconds)
        finally:
            self.schedule.end(name, failed_step=failed_step)
        if processes.stopped():
            failure = InterruptedRunError("interrupted")
        report(Event(kind="failed", variant=name, text=failure.headline))
        return Outcome(
            name=name,
            action="failed",
            digest=planned.digest,
            seconds=time.perf_counter() - start,
            error=failure,
        )

    def _attempt(self, planned: PlannedVariant, rendered: render.Rendered) -> Outcome:
        from builder import record

        name = planned.name
        if planned.action == "blocked":
            raise BlockedError(about(name, str(planned.reasons[0])))
        target = self.context.connected()
        with target.claimed(name):
            # Other machines may have changed it since the plan; from now on they wait.
            entry = self.context.entry(name)
            if planned.action == "build":
                return self._built_meanwhile(planned, entry) or self._built(planned, rendered)
            pointed = planned.retag or planned.ref
            assert pointed is not None
            ref = Ref(pointed)
            build = self._still_recorded(planned, ref, entry)
            forget(
                target, name, build.build_id or ""
            )  # a killed run may have left it in the journal
            if planned.action == "retag":
                return self._retagged(planned, ref, entry)
            if self.request.release and planned.held:
                record.unhold(self.context.project.registry, self._change(name))
            # With `retag`, another machine has the channel, so that the tags stay where they are.
            if (ref == planned.ref and not planned.retag) or planned.held:
                held = planned.held if ref != planned.ref else None
                return Outcome(name=name, action="skipped", ref=ref, build=build, held=held)
            why = f"the channel does not move to `{ref}`: {planned.reasons[0]}"
            return Outcome(name=name, action="skipped", ref=ref, build=build, overtaken=why)

    def _built(self, planned: PlannedVariant, rendered: render.Rendered) -> Outcome:
        name, state = planned.name, self.context.project.state
        with Log(state / "logs" / name, target=self.context.connected().name) as log:
            for reason in planned.reasons:
                log.line(f"because: {reason}")
            attempt = Attempt(
                request=self.request,
                planned=planned,
                rendered=rendered,
                log=log,
                schedule=self.schedule,
            )
            attempt = execute(self.stages, attempt, self.context)
        recorded = attempt.recorded
        return Outcome(
            name=name,
            action="built",
            ref=attempt.built.ref if attempt.built else None,
            build=recorded.build if recorded else None,
            held=recorded.hold if recorded else None,
            overtaken=recorded.overtaken if recorded else None,
        )

    def _retagged(self, planned: PlannedVariant, ref: Ref, entry: Entry) -> Outcome:
        """Point the channel at a build that is already recorded."""
        from builder import record

        name, target = planned.name, self.context.connected()
        build = entry.builds[ref]
        try:
            reason = str(planned.reasons[0]) if planned.reasons else None
            record.move(
                self.context.project.registry,
                self._change(name, reason),
                ref,
                action="promote",
                release=self.request.release,
                # The builds of this registry are older than the plan.
                publish=record.following(target, name, over=history.build_ids(entry)),
            )
        except OvertakenError as error:
            text = f"the channel did not move to `{ref}`: {error}"
            return Outcome(name=name, action="skipped", ref=ref, build=build, overtaken=text)
        return Outcome(name=name, action="retagged", ref=ref, build=build)

    def _change(self, name: str, reason: str | None = None) -> Change:
        from builder.record import Change

        return Change(
            name=name,
            target=self.context.target_name,
            by=provenance.actor(self.context.project.root),
            reason=reason,
            channel=self.request.channel,
        )

    def _still_recorded(self, planned: PlannedVariant, ref: str, entry: Entry) -> Build:
        """Return the build `ref`. Raise `BuildError` if it has changed since the plan."""
        build = entry.builds.get(ref, Build())
        if (
            entry.channels.get(self.request.channel) != planned.ref
            or (build.digest != planned.digest and ref != planned.ref)
            or build.is_revoked
        ):
            place = os.path.basename(self.context.project.registry)
            raise BuildError(
                f"the entry of `{planned.name}` in {place} has changed since the plan was made",
                hint="run the same command again",
            )
        return build

    def _built_meanwhile(self, planned: PlannedVariant, entry: Entry) -> Outcome | None:
        """Return the outcome if a build of the same digest was recorded since the plan."""
        channel = entry.channel(self.request.channel)
        build = channel.usable
        if planned.forced or channel.ref == planned.ref:
            return None
        if not build or build.digest != planned.digest:
            return None
        return Outcome(name=planned.name, action="skipped", ref=channel.ref, build=build)
