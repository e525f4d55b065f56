"""The command that says what works and what does not: doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from builder.cli import progress
from builder.cli.confirmation import confirm
from builder.cli.options import Json, ProjectFolder, Quiet
from builder.errors import (
    AssumptionError,
    TargetUnavailableError,
    TemplateError,
    counted,
)
from builder.project import Project, TargetSettings
from builder.system.events import Event
from builder.targets.adapters import choose_account, connect

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(doctor)


def doctor(
    live: Annotated[
        bool,
        typer.Option("--live", help="Try out on E2B what is assumed of it, with a small template."),
    ] = False,
    target: Annotated[
        str | None,
        typer.Option("--target", metavar="T", help="With --live, the account: e2b by default."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="With --live, do not ask.")] = False,
    project: ProjectFolder = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Check this machine and project: what works, what does not, what to do.

    With --live, a small template is built on E2B, verified, tagged, run and removed, and each thing
    that this program assumes of E2B is looked at. It says first what that costs, and asks.
    """
    if live:
        _try_out(_settings(project, target), yes=yes, quiet=quiet, as_json=as_json)
        return
    if target or yes:
        raise typer.BadParameter("--target and --yes go with --live")
    from builder.cli.doctor import examine

    findings = examine(project)
    if as_json:
        progress.show_json([finding.to_json() for finding in findings])
    elif not quiet:
        progress.table(["", "what", "found"], [[f.state, f.what, f.found] for f in findings])
    broken = [finding for finding in findings if finding.error]
    if broken:
        raise broken[0].error or TemplateError("something is broken")


def _settings(project: Path | None, target: str | None) -> TargetSettings:
    here = project or Project.nearest()
    place = Project.find(here) if here else Project(root=Path.cwd())
    settings, _why = choose_account(place, target)
    if not settings.has_account:
        raise TargetUnavailableError(
            f"target `{settings.name}` is this machine: there is nothing to try out on E2B",
            hint="name an account, as `--target e2b`",
        )
    connect(settings, place)  # without its key there is no need to ask
    return settings


def _try_out(settings: TargetSettings, *, yes: bool, quiet: bool, as_json: bool) -> None:
    from builder.cli.doctor import live

    if not yes:
        confirm(
            f"On {settings.name} this takes {live.cost()}. Go on?",
            otherwise=f"on {settings.name} this would take {live.cost()}",
            hint="`--yes` does it without asking",
            as_json=as_json,
        )
    with progress.reporting(quiet=quiet, as_json=as_json) as report:
        report(Event(kind="note", text=f"target {settings.name}: {live.cost()}"))
        checked, left, ended = live.try_out(settings, report=report)
    if as_json:
        progress.show_json(
            {
                "target": settings.name,
                "assumptions": [assumption.to_json() for assumption in checked],
                "left": left,
            }
        )
    elif not quiet:
        rows = [
            [assumption.state, assumption.to_json()["assumed"], assumption.seen]
            for assumption in checked
        ]
        progress.table(["", "assumed", "seen"], rows)
    if ended:
        raise ended
    if different := [assumption for assumption in checked if assumption.state == "differs"]:
        raise AssumptionError(
            f"{counted(len(different), 'assumption')} about E2B"
            f" {'does' if len(different) == 1 else 'do'} not hold on {settings.name}:\n  "
            + "\n  ".join(
                f"{assumption.to_json()['assumed']}: {assumption.seen}" for assumption in different
            ),
            hint="docs/e2b.md says what relies on each",
        )
