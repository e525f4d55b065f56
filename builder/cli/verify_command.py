"""The command that repeats the checks of recorded builds: verify."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated

import typer

from builder import operations, workflow
from builder.cli.failures import failure_of
from builder.cli.names import template_called, templates_called
from builder.cli.options import Channel, TargetName
from builder.cli.output import Result, duration
from builder.errors import TemplateError, counted
from builder.project import Project
from builder.registry import DEFAULT_CHANNEL, Registry
from builder.registry.references import find_build
from builder.system.events import Reporter
from builder.workflow import Context


def verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME",
            help="Template names, with @REF for a build other than the channel's.",
        ),
    ] = None,
    *,
    project: Project,
    target: TargetName = None,
    channel: Channel = DEFAULT_CHANNEL,
    report: Reporter,
) -> Result:
    """Repeat the checks of recorded builds in fresh sandboxes.

    The checks are those recorded with the build, not those that its spec has by now.
    """
    passed: dict[str, operations.Reverified] = {}
    failed: dict[str, TemplateError] = {}
    context = Context.choose(project, target, report=report, opens=True)
    on = context.connected().name
    recorded = context.registry.now()
    for name, ref in _builds_named(project, recorded, names or []):
        try:
            build = (
                find_build(recorded, name, ref, target=on)
                if ref
                else recorded.lookup(name, target=on, channel=channel)
            )
            passed[name] = operations.reverify(build, context)
        except TemplateError as error:
            failed[name] = error
    return Result(
        json={name: verified.to_json() for name, verified in passed.items()},
        text=_verified_lines(passed),
        error=failure_of(failed),
    )


def _verified_lines(passed: Mapping[str, operations.Reverified]) -> Iterator[str]:
    for name, reverified in passed.items():
        checks = reverified.verified.checks
        yield f"{name}: {counted(len(checks), 'check')} passed ({reverified.record.ref})"
        for check in checks:
            yield f"  {check.name} ({duration(check.seconds)})"
        if not checks:
            yield "  no checks are recorded: a sandbox started and listed its packages"
        for check_name in reverified.left_out:
            yield f"  not run, because it was not recorded: {check_name}"


def _builds_named(
    project: Project, recorded: Registry, names: list[str]
) -> Iterator[tuple[str, str | None]]:
    """Yield the templates that `names` mean, each with the build that is named, if any."""
    if not names:
        yield from ((variant.name, None) for variant in workflow.variants_called(project, []))
        return
    if len(names) == 2 and not workflow.template_names(
        names[1].partition("@")[0], recorded.templates, project
    ):
        yield template_called(names[0], recorded.templates, project.root), names[1]
        return
    for name in names:
        head, _, build = name.partition("@")
        for template in sorted(templates_called([head], recorded, project.root)):
            yield template, build or None
