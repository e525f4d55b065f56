"""Commands that repair the registry itself: registry repair, registry rebuild."""

from __future__ import annotations

from builder import operations, record, workflow
from builder.cli.names import account_named
from builder.cli.options import Names, TargetName
from builder.cli.output import Result
from builder.errors import RegistryError
from builder.errors.visible import one_line
from builder.project import Project
from builder.system import provenance
from builder.system.events import Reporter
from builder.targets.adapters import connect
from builder.workflow import BuildRequest, Context


def repair(*, project: Project) -> Result:
    """Make the registry consistent with its history again, after an edit by hand or a merge."""
    mended, left = record.repair(project.registry, by=provenance.actor(project.root))
    error = RegistryError(
        "these faults cannot be repaired from the registry alone:\n"
        + "\n".join(f"  {one_line(text)}" for text in left),
        hint="restore the registry from git, build again, or recover the builds that E2B still has"
        " with `template-builder registry rebuild --target e2b`",
    )
    return Result(
        json={"repaired": mended, "left": left},
        text=[f"repaired: {text}" for text in mended] or ([] if left else ["nothing to repair"]),
        error=error if left else None,
    )


def rebuild(
    names: Names = None,
    *,
    target: TargetName = None,
    project: Project,
    report: Reporter,
) -> Result:
    """Record the builds that channels' tags on E2B point at, and move the channels to them."""
    settings = account_named(project, target, report)
    adapter = connect(settings, project, report=report)
    context = Context(project=project, settings=settings, target=adapter, report=report)
    request = BuildRequest(names=names or (), frozen=True)
    prepared = workflow.prepare(request, context, workflow.RENDER)
    builds = operations.rebuild(prepared, context)
    lines = [
        f"recorded: {build['ref']} ({build['name']}),"
        f" channels: {', '.join(build['channels']) or 'none'}"
        for build in builds
    ]
    return Result(json=builds, text=lines or [f"no build is missing that {settings.name} has"])
