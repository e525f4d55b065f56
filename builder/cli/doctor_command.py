"""The command that checks machine, project and accounts: doctor."""

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
        typer.Option(
            "--live", help="Test on E2B what this program assumes of it, with a small template."
        ),
    ] = False,
    target: TargetName = None,
    yes: Yes = False,
    project: ProjectFolder = None,
    output: Output,
) -> Result:
    """Check this machine and project: what works, what does not, and what to do about it.

    --live builds, verifies, tags, runs and removes a small template on E2B, to test what this
    program assumes of E2B. It shows the cost and asks first. --target and --yes go with --live.
    """
    if live:
        return _try_out(_settings(project, target), yes=yes, output=output)
    if target or yes:
        raise typer.BadParameter("--target and --yes need --live")
    from builder.cli.doctor import examine

    findings = examine(project)
    rows = [[finding.state, finding.what, finding.found] for finding in findings]
    return Result(
        json=[finding.to_json() for finding in findings],
        text=[Table(headings=["state", "check", "result"], rows=rows)],
        error=next((finding.error for finding in findings if finding.error), None),
    )


def _settings(folder: Path | None, target: str | None) -> TargetSettings:
    nearest = folder or Project.nearest()
    project = Project.find(nearest) if nearest else Project(root=Path.cwd())
    settings, _why = choose_account(project, target)
    if not settings.has_account:
        raise TargetUnavailableError(
            f"target `{settings.name}` is this machine: --live tests an account on E2B",
            hint="name an account, such as `--target e2b`",
        )
    connect(settings, project)  # fail without a key before asking
    return settings


def _try_out(settings: TargetSettings, *, yes: bool, output: Output) -> Result:
    from builder.cli.doctor import live

    if not yes:
        confirm(
            f"This takes {live.cost()} on {settings.name}. Continue?",
            otherwise=f"this would take {live.cost()} on {settings.name}",
            hint="`--yes` continues without asking",
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
        hint="docs/e2b.md lists what relies on each",
    )
    return Result(
        json={
            "target": settings.name,
            "assumptions": [assumption.to_json() for assumption in checked],
            "left": left,
        },
        text=[Table(headings=["state", "assumption", "observed"], rows=rows)],
        error=ended or (error if different else None),
    )
