"""The command that removes what nothing needs: gc."""

from __future__ import annotations

import contextlib
import os
from typing import Annotated

import typer

from builder import pipeline, progress
from builder.build import Cleaner
from builder.cli.options import Json, ProjectFolder, Quiet, TargetName
from builder.errors import EngineUnavailableError, TargetUnavailableError
from builder.events import Event, Reporter
from builder.project import Project
from builder.retention import Keep
from builder.targets.adapters import connect, named

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
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    target: TargetName = None,
    project: ProjectFolder = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Remove local environments, Docker images and cloud tags that nothing needs.

    Says first what would go. The registry keeps the record of every build.
    """
    place = Project.find(project)
    with progress.reporting(quiet=quiet, as_json=as_json) as report:
        cleaners = _cleaners(place, target, report)
        found = pipeline.find_waste(
            place, cleaners, Keep(newest=keep, steps=history), protect_days=protect_days
        )
    size = sum(one.waste.size or 0 for one in found)
    if not as_json and not quiet:
        _show(found)
        progress.show_text(
            f"{len(found)} of {', '.join(cleaners)} can go, up to {progress.size(size)}"
            if found
            else f"nothing to remove on {', '.join(cleaners)}"
        )
    if found and not dry_run and not yes and not as_json and progress.interactive():
        typer.confirm("Remove them?", abort=True, err=True)
    removed: list[pipeline.Found] = []
    if not dry_run:

        def tell(one: pipeline.Found) -> None:
            if not as_json and not quiet:
                kept = f"kept, {one.kept}" if one.kept else "removed"
                progress.show_text(f"{kept}: {one.waste.kind} {one.waste.identity}")

        removed = list(pipeline.remove_waste(found, tell))
    if as_json:
        shown = removed or found
        progress.show_json(
            {"dry_run": dry_run, "size_bytes": size, "found": [one.to_json() for one in shown]}
        )


def _show(found: list[pipeline.Found]) -> None:
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
        return {"docker": _docker(place)}
    if asked := named(place, name):
        settings, why = asked
        report(Event(kind="note", text=why))
        return {settings.name: connect(settings, place, report=report)}
    found: dict[str, Cleaner] = {}
    for settings in place.targets.values():
        if settings.kind == "e2b" and not os.environ.get(settings.api_key_env or "", "").strip():
            report(Event(kind="note", text=f"left out: {settings.name}, its key is not set"))
            continue
        with contextlib.suppress(TargetUnavailableError):
            found[settings.name] = connect(settings, place, report=report)
    try:
        found["docker"] = _docker(place)
    except EngineUnavailableError as error:
        report(Event(kind="note", text=f"left out: {error.message}"))
    return found


def _docker(place: Project) -> Cleaner:
    from builder.docker_engine import DockerEngine

    return DockerEngine(place.precheck)
