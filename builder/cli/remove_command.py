"""The command that takes out of the registry what nobody needs: remove."""

from __future__ import annotations

from typing import Annotated

import typer

from builder import operations, workflow
from builder.cli import progress
from builder.cli.channel_commands import Reason
from builder.cli.confirmation import confirm
from builder.cli.names import template_called
from builder.cli.options import Json, ProjectFolder, Quiet, TargetName
from builder.project import Project

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(remove)


def remove(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The template, or one build of it: NAME@REF.")
    ],
    channel: Annotated[
        list[str] | None,
        typer.Option(
            "--channel",
            metavar="C",
            help="This channel alone; with NAME@REF, the channel and the build. May be repeated.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    reason: Reason = None,
    target: TargetName = None,
    project: ProjectFolder = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Take a template, a build or a channel out of the registry; its history stays.

    What a channel points at is not removed, unless that channel is. On E2B their
    tags go, too, but for `default`, which E2B removes with the template alone.
    """
    place = Project.find(project)
    recorded = workflow.read_registry(place)
    name, _, build = template_called(name, recorded.templates, place.root).partition("@")
    removal = operations.removal_of(
        place, name, build or None, channels=channel or [], target=target
    )
    items = [f"channel {removed}" for removed in removal.channels]
    items += [f"build {ref}" for ref in removal.builds]
    suffix = f"of {name} on {removal.target}"
    if not yes:
        confirm(
            f"Remove {suffix}: {', '.join(items)}?",
            otherwise=f"{', '.join(items)} {suffix} would be removed",
            hint="`--yes` removes it without asking",
            as_json=as_json,
        )
    with progress.reporting(quiet=quiet, as_json=as_json) as report:
        note = operations.remove(place, removal, reason=reason, report=report)
    if as_json:
        progress.show_json({**removal.to_json(), "note": note})
    elif not quiet:
        for item in items:
            progress.show_text(f"removed: {item} {suffix}")
        if note:
            progress.show_text(f"note: {note}")
