"""The command that removes templates, builds and channels from the registry: remove."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from builder import operations
from builder.cli.confirmation import confirm
from builder.cli.names import recorded_name
from builder.cli.options import Channels, Reason, TargetName, Yes
from builder.cli.output import Output, Result
from builder.project import Project


def remove(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The template, or one of its builds: NAME@REF.")
    ],
    *,
    channel: Channels = None,
    yes: Yes = False,
    reason: Reason = None,
    target: TargetName = None,
    project: Project,
    output: Output,
) -> Result:
    """Remove a template, a build or a channel from the registry; the history is kept.

    A build that a channel points at is removed only with the channel. Tags on E2B are removed too,
    except `default`, which E2B removes only with the template.
    """
    name, _, build = recorded_name(project, name).partition("@")
    removal = operations.removal_of(
        project, name, build or None, channels=channel or [], target=target
    )
    items = [f"channel {removed}" for removed in removal.channels]
    items += [f"build {ref}" for ref in removal.builds]
    suffix = f"of {name} on {removal.target}"
    if not yes:
        confirm(
            f"Remove {suffix}: {', '.join(items)}?",
            otherwise=f"{', '.join(items)} {suffix} would be removed",
            hint="`--yes` removes it without asking",
            as_json=output.as_json,
        )
    with output.progress() as report:
        note = operations.remove(project, removal, reason=reason, report=report)
    return Result(
        json={**asdict(removal), "note": note},
        text=[f"removed: {item} {suffix}" for item in items] + ([f"note: {note}"] if note else []),
    )
