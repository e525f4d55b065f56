"""The command that removes what nothing needs: gc."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated

import typer

from builder import operations
from builder.cli.confirmation import confirm
from builder.cli.options import TargetName, Yes
from builder.cli.output import Output, Result, Table, size
from builder.errors import (
    EngineUnavailableError,
    TargetUnavailableError,
    counted,
)
from builder.operations.retention import Keep
from builder.precheck import connect_engine
from builder.project import Project
from builder.system.events import Event, Reporter
from builder.targets.adapters import connect, named
from builder.targets.protocol import Cleaner


def gc(
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would go, and stop.")
    ] = False,
    keep: Annotated[
        int, typer.Option(min=1, help="Of each template, this many of the newest builds stay.")
    ] = 3,
    history: Annotated[
        int, typer.Option(min=0, help="…and this many steps back from each channel.")
    ] = 5,
    protect_days: Annotated[
        float,
        typer.Option(
            metavar="DAYS", min=0, help="…and what was made or used in the last DAYS days."
        ),
    ] = 7,
    forget: Annotated[
        list[str] | None,
        typer.Option(metavar="REGISTRY", help="A registry, or its folder, that is gone for good."),
    ] = None,
    yes: Yes = False,
    target: TargetName = None,
    project: Project,
    output: Output,
) -> Result:
    """Remove local environments, Docker images and cloud tags that nothing needs.

    Says first what would go, and asks. The registry keeps the record of every build. What another
    project's registry may need that is not there, or cannot be read, is kept and named.
    """
    with output.progress() as report:
        cleaners = _cleaners(project, target, report)
        items: Sequence[operations.Found] = operations.find_waste(
            project,
            cleaners,
            Keep(newest=keep, steps=history),
            protect_days=protect_days,
            forget=forget or (),
        )
    going = [item for item in items if not item.kept]
    size_bytes = sum(item.waste.size or 0 for item in going)
    places = ", ".join(cleaners)
    if going:
        output.text([_table(going)])
    if dry_run:
        output.text(_outcome(item) for item in items if item.kept)
    output.text(
        [
            f"{counted(len(going), 'item')} on {places} can be removed, up to {size(size_bytes)}"
            if going
            else f"nothing to remove on {places}"
        ]
    )
    if going and not dry_run and not yes:
        confirm(
            "Remove them?",
            otherwise=f"{counted(len(going), 'item')} on {places} would be removed",
            hint="`--yes` removes them without asking, `--dry-run` says which",
            as_json=output.as_json,
        )
    if not dry_run:
        items = operations.remove_waste(items, lambda item: output.text([_outcome(item)]))
    return Result(
        json={
            "dry_run": dry_run,
            "size_bytes": size_bytes,
            "found": [item.to_json() for item in items],
        }
    )


def _table(going: Sequence[operations.Found]) -> Table:
    return Table(
        headings=["on", "what", "which", "size", "because"],
        rows=[
            [
                item.place,
                item.waste.kind,
                item.waste.identity,
                "-" if item.waste.size is None else size(item.waste.size),
                item.waste.why,
            ]
            for item in going
        ],
    )


def _outcome(item: operations.Found) -> str:
    name = f"{item.waste.kind} {item.waste.identity}"
    return f"kept: {name}: {item.kept}" if item.kept else f"removed: {name}"


def _cleaners(project: Project, name: str | None, report: Reporter) -> dict[str, Cleaner]:
    if name == "docker":
        return {"docker": connect_engine(project.precheck)}
    if asked := named(project, name):
        settings, why = asked
        report(Event(kind="note", text=why))
        return {settings.name: connect(settings, project, report=report)}
    cleaners: dict[str, Cleaner] = {}
    # All targets of this machine keep their environments in one place.
    machine = next(s for s in project.targets.values() if not s.has_account)
    for settings in project.targets.values():
        if settings.has_account and not os.environ.get(settings.api_key_env or "", "").strip():
            report(Event(kind="note", text=f"left out: {settings.name}, its key is not set"))
            continue
        if not settings.has_account and settings is not machine:
            continue
        try:
            cleaners[settings.name] = connect(settings, project, report=report)
        except TargetUnavailableError as error:
            report(Event(kind="note", text=f"left out: {error.message}"))
    try:
        cleaners["docker"] = connect_engine(project.precheck)
    except EngineUnavailableError as error:
        report(Event(kind="note", text=f"left out: {error.message}"))
    return cleaners
