"""The stages that each variant goes through under its claim: build, verify, publish, record.

In this order, so that what fails is found before it is seen by anybody. What a stage works with is
loaded in it: a plan, which shows the sequence, does not run it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from builder.errors import VerifyError
from builder.registry.history import build_ids
from builder.render import write_files
from builder.system import processes, provenance
from builder.targets.measures import keep_measures
from builder.targets.protocol import Builder, BuildInput
from builder.workflow.context import Context
from builder.workflow.values import Attempt


def build(attempt: Attempt, context: Context) -> Attempt:
    """Make the build, or find it made, when it is its turn. Raises `BuildError` and its kin."""
    planned, target = attempt.planned, context.connected()
    shared = attempt.schedule.start(planned.name)
    folder = context.project.state / "context" / planned.name
    if target.steps_cached:
        write_files(attempt.rendered, folder)
    order = BuildInput(
        rendered=attempt.rendered,
        folder=folder,
        force=planned.forced,
        program=planned.program,
        step_keys=planned.step_keys,
        shared=shared,
        expected_cached=max(shared, planned.cached_before),
        require_cache=attempt.request.require_cache,
        unwanted=_revoked(planned.name, context),
        passed=partial(attempt.schedule.passed, planned.name),
    )
    built = target.build(order, report=context.report, log=attempt.log)
    attempt.schedule.built(planned.name)
    return replace(attempt, built=built)


def verify(attempt: Attempt, context: Context) -> Attempt:
    """Check the build in real sandboxes of it. Raises `VerifyError`, `SandboxError`."""
    from builder.verify import verify as verify_build

    built, target = attempt.built, context.connected()
    assert built
    try:
        verified = verify_build(
            built, attempt.rendered, target, report=context.report, log=attempt.log
        )
    except VerifyError:
        forget(target, built.name, built.build_id)  # it is not good
        raise
    processes.check_not_stopped()
    keep_measures(built, verified.measures)
    return replace(attempt, verified=verified)


def publish(attempt: Attempt, context: Context) -> Attempt:
    """Have the target follow to the build.

    Where to is known only once the registry is locked, which may have been changed since: so
    `record` does it, as a part of its one change, and takes it back when that fails.
    """
    from builder.record import following

    name = attempt.planned.name
    over = _revoked(name, context)
    return replace(attempt, publish=following(context.connected(), name, over=over))


def forget(target: Builder, name: str, build_id: str) -> None:
    """Have no run take a build up again."""
    if target.journal:
        target.journal.forget(name, build_id)


def _revoked(name: str, context: Context) -> frozenset[str]:
    """The IDs of builds of `name` that must not be taken instead of a new one."""
    builds = context.entry(name).builds.values()
    return frozenset(
        build.build_id for build in builds if build.is_revoked and build.build_id is not None
    )


def record(attempt: Attempt, context: Context) -> Attempt:
    """Add the verified build to the registry, and point the channel at it. Raises `RevokedError`,
    `RegistryError`, `StorageError`, and what publishing raises."""
    from builder.record import record as record_build

    built, root = attempt.built, context.project.root
    assert built
    assert attempt.verified
    recorded = record_build(
        context.project.registry,
        attempt.verified,
        attempt.rendered,
        by=provenance.actor(root),
        source=provenance.source(root),
        channel=attempt.request.channel,
        release=attempt.request.release,
        publish=attempt.publish,
    )
    forget(context.connected(), built.name, built.build_id)
    attempt.log.line(f"recorded {built.ref}")
    if recorded.overtaken:
        text = f"`{built.ref}` is recorded and overtaken: {recorded.overtaken}"
        ids = build_ids(context.entry(built.name))
        if not any(build_id in recorded.overtaken for build_id in ids):
            text += (
                f"; `template-builder registry rebuild {built.name} --target {built.target}`"
                " records that one here"
            )
        attempt.log.line(text)
        recorded = replace(recorded, overtaken=text)
    return replace(attempt, recorded=recorded)
