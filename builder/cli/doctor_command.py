"""The command that says what works and what does not: doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from builder.cli.confirmation import confirm
from builder.cli.options import ProjectFolder, TargetName, Yes
from builder.cli.output import Output, Result, Table
from builder.errors import AssumptionError, TargetUnavailableError, counted
from builder.project import Project, TargetSettings
from builder.system.events import Event
from builder.targets.adapters import choose_account, connect


def doctor(
    *,
    live: Annotated[
        bool,
        typer.Option("--live", help="Try out on E2B what is assumed of it, with a small template."),
    ] = False,
    target: TargetName = None,
    yes: Yes = False,
    project: ProjectFolder = None,
    output: Output,
) -> Result:
    """Check this machine and project: what works, what does not, what to do.

    With --live, a small template is built on E2B, verified, tagged, run and removed, and each thing
    that this program assumes of E2B is looked at. It says first what that costs, and asks.
    --target names another account than e2b; it and --yes go with --live.
    """
    if live:
        return _try_out(_settings(project, target), yes=yes, output=output)
    if target or yes:
        raise typer.BadParameter("--target and --yes go with --live")
    from builder.cli.doctor import examine

    findings = examine(project)
    rows = [[finding.state, finding.what, finding.found] for finding in findings]
    return Result(
        json=[finding.to_json() for finding in findings],
        text=[Table(headings=["", "what", "found"], rows=rows)],
        error=next((finding.error for finding in findings if finding.error), None),
    )


def _settings(folder: Path | None, target: str | None) -> TargetSettings:
    nearest = folder or Project.nearest()
    project = Project.find(nearest) if nearest else Project(root=Path.cwd())
    settings, _why = choose_account(project, target)
    if not settings.has_account:
        raise TargetUnavailableError(
            f"target `{settings.name}` is this machine: there is nothing to try out on E2B",
            hint="name an account, as `--target e2b`",
        )
    connect(settings, project)  # without its key there is no need to ask
    return settings


def _try_out(settings: TargetSettings, *, yes: bool, output: Output) -> Result:
    from builder.cli.doctor import live

    if not yes:
        confirm(
            f"On {settings.name} this takes {live.cost()}. Go on?",
            otherwise=f"on {settings.name} this would take {live.cost()}",
            hint="`--yes` does it without asking",
            as_json=output.as_json,
        )
    with output.progress() as report:
        report(Event(kind="note", text=f"target {settings.name}: {live.cost()}"))
        checked, left, ended = live.try_out(settings, report=report)
    rows = [[c.state, c.to_json()["assumed"], c.seen] for c in checked]
    different = [f"{assumed}: {seen}" for state, assumed, seen in rows if state == "differs"]
    count = counted(len(different), "assumption")
    error = AssumptionError(
        f"{count} about E2B {'does' if len(different) == 1 else 'do'} not hold on"
        f" {settings.name}:\n  " + "\n  ".join(different),
        hint="docs/e2b.md says what relies on each",
    )
    return Result(
        json={
            "target": settings.name,
            "assumptions": [assumption.to_json() for assumption in checked],
            "left": left,
        },
        text=[Table(headings=["", "assumed", "seen"], rows=rows)],
        error=ended or (error if different else None),
    )
