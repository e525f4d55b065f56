"""Commands that mend the registry itself: registry repair, registry rebuild."""

from __future__ import annotations

from typing import Annotated

import typer

from builder import operations, record, workflow
from builder.cli import progress
from builder.cli.options import Json, Names, ProjectFolder, Quiet
from builder.errors import RegistryError
from builder.errors.visible import one_line
from builder.project import Project
from builder.system import provenance
from builder.system.events import Event
from builder.targets.adapters import choose_account, connect
from builder.workflow import BuildRequest, Context

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the group of commands to the program."""
    group = typer.Typer(no_args_is_help=True, help="Mend the registry itself.")
    group.command()(repair)
    group.command()(rebuild)
    app.add_typer(group, name="registry")


def repair(project: ProjectFolder = None, quiet: Quiet = False, as_json: Json = False) -> None:
    """Make the registry fit to its history again, after a hand edit or a merge."""
    place = Project.find(project)
    mended, left = record.repair(place.registry, by=provenance.actor(place.root))
    if as_json:
        progress.show_json({"repaired": mended, "left": left})
    elif not quiet:
        for text in mended:
            progress.show_text(f"repaired: {text}")
        if not mended and not left:
            progress.show_text("nothing to repair")
    if left:
        raise RegistryError(
            "what cannot be repaired from the registry alone:\n"
            + "\n".join(f"  {one_line(text)}" for text in left),
            hint="restore it from git, build anew, or, for what E2B still has,"
            " `template-builder registry rebuild --target e2b`",
        )


def rebuild(
    names: Names = None,
    target: Annotated[
        str | None,
        typer.Option("--target", metavar="T", help="The account that has the builds: e2b."),
    ] = None,
    project: ProjectFolder = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Put builds back into the registry that E2B still has and channels' tags lead to."""
    place = Project.find(project)
    settings, why = choose_account(place, target)
    request = BuildRequest(names=names or (), frozen=True)
    with progress.reporting(quiet=quiet, as_json=as_json) as report:
        if why:
            report(Event(kind="note", text=why))
        adapter = connect(settings, place, report=report)
        context = Context(project=place, settings=settings, target=adapter, report=report)
        prepared = workflow.prepare(request, context, workflow.RENDER)
        done = operations.rebuild(prepared, context)
    if as_json:
        progress.show_json(done)
    elif not quiet:
        for one in done:
            channels = ", ".join(one["channels"]) or "none"
            progress.show_text(f"put back: {one['ref']} ({one['name']}), channels: {channels}")
        if not done:
            progress.show_text(f"nothing is missing that {settings.name} has")
