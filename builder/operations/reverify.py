"""Verify recorded builds again, against the promises of their records."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from builder import record, registry, render, verify
from builder.errors import TemplateError, VerifyError
from builder.registry import Digest
from builder.registry.model import Build
from builder.system import processes
from builder.system.events import discard
from builder.system.logs import Log
from builder.targets.measures import with_measures
from builder.targets.protocol import Built
from builder.workflow import RENDER, BuildRequest, Context, prepare


@dataclass(frozen=True, kw_only=True, slots=True)
class Reverified:
    """A build that passed again; `left_out` are tests of it that are not recorded."""

    record: registry.Record
    verified: verify.Verified
    left_out: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "ref": self.record.ref,
            "checks": [check.name for check in self.verified.checks],
            "left_out": list(self.left_out),
            "warnings": list(self.verified.warnings),
            "first_use": self.verified.first_use,
            "sandbox_seconds": self.verified.sandbox_seconds,
        }


def reverify(recorded: registry.Record, context: Context) -> Reverified:
    """Run the checks of a recorded build again, whatever its spec says now; record nothing.

    Raise `VerifyError`, `SandboxError`, `NotOnThisMachineError`.
    """
    opener, report, name = context.connected(), context.report, recorded.name
    recalled = record.recalled(recorded)
    promises: verify.Promises = recalled
    left_out = recalled.left_out
    if left_out and (rendered := _rendered(context, recorded)):
        promises, left_out = rendered, ()
    built = built_of(recorded, with_measures(recorded.ref, recorded.build))
    with (
        Log(context.project.state / "logs" / name, target=recorded.target, kind="verify") as log,
        opener.claimed(name),
        processes.interruptible(),
    ):
        try:
            verified = verify.verify(built, promises, opener, report=report, log=log)
        except VerifyError as error:
            # It passed before: the environment is damaged, or the checks depend on more than it.
            if opener.changes and _rendered(context, recorded):
                again = f"`template-builder build {name} --force --target {recorded.target}`"
                error.hint = f"{again} recreates the environment"
            raise
    return Reverified(record=recorded, verified=verified, left_out=left_out)


def _rendered(context: Context, recorded: registry.Record) -> render.Rendered | None:
    """Return what the spec and its committed lock render to, if the build has that digest."""
    request = BuildRequest(names=(recorded.name,), frozen=True)
    try:
        prepared = prepare(request, replace(context, report=discard), RENDER)
    except TemplateError:
        return None
    return next(
        (rendering for rendering in prepared.rendered if rendering.digest == recorded.digest), None
    )


def built_of(recorded: registry.Record, build: Build) -> Built:
    """Return a recorded build in the form in which a target returns it, to be verified."""
    return Built(
        name=recorded.name,
        target=recorded.target,
        ref=recorded.ref,
        template_id=recorded.template_id,
        build_id=recorded.build_id or "",
        digest=recorded.digest or Digest(),
        seconds=build.seconds.build or 0.0,
        reused=True,
        size=build.size_bytes,
        cold=build.seconds.first_use.get("cold", {}),
    )
