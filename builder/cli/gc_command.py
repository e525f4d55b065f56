"""The command that removes what nothing needs: gc."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Annotated

import typer

from builder import operations
from builder.cli.confirmation import confirm
from builder.cli.options import TargetName, Yes
from builder.cli.output import Output, Result, Table, size
from builder.errors import EngineUnavailableError, TargetUnavailableError, counted
from builder.operations.retention import Keep
from builder.precheck import connect_engine
from builder.project import Project
from builder.system.events import Event, Reporter
from builder.targets.adapters import connect, named
from builder.targets.protocol import Cleaner

DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be removed, and stop.")]
Newest = Annotated[
    int, typer.Option(min=1, help="Keep this many of the newest builds of each template.")
]
Steps = Annotated[int, typer.Option(min=0, help="Keep this many earlier builds of each channel.")]
Days = Annotated[
    float, typer.Option(metavar="DAYS", min=0, help="Keep what was built or used within DAYS days.")
]
Forget = Annotated[
    list[str] | None,
    typer.Option(
        metavar="REGISTRY",
        help="Ignore a registry that no longer exists: its path, or a folder above it.",
    ),
]


def gc(
    *,
    dry_run: DryRun = False,
    keep: Newest = 3,
    history: Steps = 5,
    protect_days: Days = 7,
    forget: Forget = None,
    yes: Yes = False,
    target: TargetName = None,
    project: Project,
    output: Output,
) -> Result:
    """Remove local environments, Docker images and tags on E2B that nothing needs.

    Shows what would be removed, and asks first. The registry keeps the record of every build. What
    the registry of another project may need is kept if that registry cannot be read.
    """
    with output.progress() as report:
        cleaners = _cleaners(project, target, report)
        items: Sequence[operations.Candidate] = operations.find_unused(
            project,
            cleaners,
            Keep(newest=keep, steps=history),
            protect_days=protect_days,
            forget=forget or (),
        )
    unused = [item for item in items if not item.kept]
    size_bytes = sum(item.unused.size or 0 for item in unused)
    _show(unused, [item for item in items if item.kept and dry_run], cleaners, size_bytes, output)
    if not dry_run:
        if unused and not yes:
            confirm(
                "Remove them?",
                otherwise=f"{counted(len(unused), 'item')} on {', '.join(cleaners)} would be"
                " removed",
                hint="`--yes` removes them without asking, `--dry-run` lists them",
                as_json=output.as_json,
            )
        items = operations.remove_unused(items, lambda item: output.text([_outcome(item)]))
    return Result(
        json={
            "dry_run": dry_run,
            "size_bytes": size_bytes,
            "found": [item.to_json() for item in items],
        }
    )


def _show(
    unused: Sequence[operations.Candidate],
    kept: Sequence[operations.Candidate],
    places: Iterable[str],
    size_bytes: int,
    output: Output,
) -> None:
    on = f"on {', '.join(places)}"
    if unused:
        rows = [
            [
                item.place,
                item.unused.kind,
                item.unused.identity,
                "-" if item.unused.size is None else size(item.unused.size),
                item.unused.why,
            ]
            for item in unused
        ]
        output.text([Table(headings=["on", "kind", "name", "size", "reason"], rows=rows)])
    output.text(map(_outcome, kept))
    count = counted(len(unused), "item")
    output.text(
        [
            f"{count} {on} can be removed{f', up to {size(size_bytes)}' if size_bytes else ''}"
            if unused
            else f"nothing to remove {on}"
        ]
    )


def _outcome(item: operations.Candidate) -> str:
    name = f"{item.unused.kind} {item.unused.identity}"
    return f"kept: {name}: {item.kept}" if item.kept else f"removed: {name}"


def _cleaners(project: Project, name: str | None, report: Reporter) -> dict[str, Cleaner]:
    if name == "docker":
        return {"docker": connect_engine(project.precheck)}
    if choice := named(project, name):
        settings, why = choice
        report(Event(kind="note", text=why))
        return {settings.name: connect(settings, project, report=report)}
    cleaners: dict[str, Cleaner] = {}
    # All local targets keep their environments in one place.
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
