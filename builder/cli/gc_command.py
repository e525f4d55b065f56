"""The command that removes what nothing needs: gc."""

from __future__ import annotations

import contextlib
import os
from typing import Annotated

import typer

from builder import operations
from builder.cli import progress
from builder.cli.confirmation import confirm
from builder.cli.options import Json, ProjectFolder, Quiet, TargetName
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

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(gc)


def gc(
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
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    target: TargetName = None,
    project: ProjectFolder = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Remove local environments, Docker images and cloud tags that nothing needs.

    Says first what would go, and asks. The registry keeps the record of every build. What another
    project's registry may need that is not there, or cannot be read, is kept and named.
    """
    place = Project.find(project)
    with progress.reporting(quiet=quiet, as_json=as_json) as report:
        cleaners = _cleaners(place, target, report)
        found = operations.find_waste(
            place,
            cleaners,
            Keep(newest=keep, steps=history),
            protect_days=protect_days,
            forget=forget or (),
        )
    going = [one for one in found if not one.kept]
    size = sum(one.waste.size or 0 for one in going)
    if not as_json and not quiet:
        _show(going)
        for one in found:
            if one.kept and dry_run:
                progress.show_text(f"kept: {one.waste.kind} {one.waste.identity}: {one.kept}")
        progress.show_text(
            f"{counted(len(going), 'item')} on {', '.join(cleaners)} can be removed, up to"
            f" {progress.size(size)}"
            if going
            else f"nothing to remove on {', '.join(cleaners)}"
        )
    if going and not dry_run and not yes:
        confirm(
            "Remove them?",
            otherwise=f"{counted(len(going), 'item')} on {', '.join(cleaners)} would be removed",
            hint="`--yes` removes them without asking, `--dry-run` says which",
            as_json=as_json,
        )
    removed: list[operations.Found] = []
    if not dry_run:

        def tell(one: operations.Found) -> None:
            if not as_json and not quiet:
                what = f"{one.waste.kind} {one.waste.identity}"
                progress.show_text(f"kept: {what}: {one.kept}" if one.kept else f"removed: {what}")

        removed = list(operations.remove_waste(found, tell))
    if as_json:
        shown = removed or found
        progress.show_json(
            {"dry_run": dry_run, "size_bytes": size, "found": [one.to_json() for one in shown]}
        )


def _show(found: list[operations.Found]) -> None:
    if found:
        progress.table(
            ["on", "what", "which", "size", "because"],
            [
                [
                    one.place,
                    one.waste.kind,
                    one.waste.identity,
                    "-" if one.waste.size is None else progress.size(one.waste.size),
                    one.waste.why,
                ]
                for one in found
            ],
        )


def _cleaners(place: Project, name: str | None, report: Reporter) -> dict[str, Cleaner]:
    if name == "docker":
        return {"docker": connect_engine(place.precheck)}
    if asked := named(place, name):
        settings, why = asked
        report(Event(kind="note", text=why))
        return {settings.name: connect(settings, place, report=report)}
    found: dict[str, Cleaner] = {}
    # All targets of this machine keep their environments in one place.
    machine = next(s for s in place.targets.values() if not s.has_account)
    for settings in place.targets.values():
        if settings.has_account and not os.environ.get(settings.api_key_env or "", "").strip():
            report(Event(kind="note", text=f"left out: {settings.name}, its key is not set"))
            continue
        if not settings.has_account and settings is not machine:
            continue
        with contextlib.suppress(TargetUnavailableError):
            found[settings.name] = connect(settings, place, report=report)
    try:
        found["docker"] = connect_engine(place.precheck)
    except EngineUnavailableError as error:
        report(Event(kind="note", text=f"left out: {error.message}"))
    return found
