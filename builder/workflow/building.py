"""The stages of a single variant, under its claim: build, verify, publish, record.

In this order, so that a build is visible only after it has passed every check. Imports are inside
the stages, since a plan shows the sequence without running it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from builder.errors import VerifyError
from builder.registry.history import build_ids
from builder.render import write_context
from builder.system import processes
from builder.workflow.context import Context
from builder.workflow.values import Attempt

if TYPE_CHECKING:
    from builder.targets.protocol import Builder


def build(attempt: Attempt, context: Context) -> Attempt:
    """Build when it is its turn, or take an existing build. Raise `BuildError` and subclasses."""
    from builder.targets.protocol import BuildInput

    planned, target = attempt.planned, context.connected()
    shared = attempt.schedule.start(planned.name)
    folder = context.project.state / "context" / planned.name
    if target.steps_cached:
        write_context(attempt.rendered, folder, report=context.report)
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
    """Verify the build in real sandboxes. Raise `VerifyError`, `SandboxError`."""
    from builder.targets.measures import keep_measures
    from builder.verify import verify as verify_build

    built, target = attempt.built, context.connected()
    assert built
    try:
        verified = verify_build(
            built, attempt.rendered, target, report=context.report, log=attempt.log
        )
    except VerifyError:
        forget(target, built.name, built.build_id)  # so that no later run takes it
        raise
    processes.check_not_stopped()
    keep_measures(built, verified.measures)
    return replace(attempt, verified=verified)


def publish(attempt: Attempt, context: Context) -> Attempt:
    """Prepare to publish the build on the target.

    Only the locked registry decides where the channel points, so `record` publishes as part of its
    change, and undoes that if the change fails.
    """
    from builder.record import following

    name = attempt.planned.name
    over = _revoked(name, context)
    return replace(attempt, publish=following(context.connected(), name, over=over))


def forget(target: Builder, name: str, build_id: str) -> None:
    """Keep later runs from resuming a build."""
    if target.journal:
        target.journal.forget(name, build_id)


def _revoked(name: str, context: Context) -> frozenset[str]:
    """Return the IDs of revoked builds of `name`, which must not be reused."""
    builds = context.entry(name).builds.values()
    return frozenset(
        build.build_id for build in builds if build.is_revoked and build.build_id is not None
    )


def record(attempt: Attempt, context: Context) -> Attempt:
    """Add the verified build to the registry, and point the channel at it. Raise `RevokedError`,
    `RegistryError`, `StorageError`, and errors of publishing."""
    from builder.record import record as record_build
    from builder.system import provenance

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
        text = f"`{built.ref}` is recorded but was overtaken: {recorded.overtaken}"
        ids = build_ids(context.entry(built.name))
        if not any(build_id in recorded.overtaken for build_id in ids):
            text += (
                f"; `template-builder registry rebuild {built.name} --target {built.target}`"
                " adds that build to this registry"
            )
        attempt.log.line(text)
        recorded = replace(recorded, overtaken=text)
    return replace(attempt, recorded=recorded)
