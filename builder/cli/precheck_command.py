"""The command precheck."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from builder import workflow
from builder.cli import progress
from builder.cli.failures import raise_failures
from builder.cli.options import Frozen, Json, Names, ProjectFolder, Quiet
from builder.precheck import Checked
from builder.project import Project
from builder.verify import first_use_pairs
from builder.workflow import BuildRequest, Context

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command(name="precheck")(precheck)


def precheck(
    names: Names = None,
    project: ProjectFolder = None,
    frozen: Frozen = False,
    force: Annotated[
        bool, typer.Option("--force", help="Build and check although nothing changed.")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Build with Docker, start the image as a sandbox would be, and check it from inside."""
    request = BuildRequest(names=names or (), frozen=frozen, force=force)
    with progress.reporting(quiet=quiet, as_json=as_json) as report:
        context = Context(project=Project.find(project), report=report)
        prepared = workflow.prepare(request, context, workflow.PRECHECK)
    passed = list(prepared.checked.values())
    if as_json:
        progress.show_json([one.to_json() for one in passed])
    elif not quiet:
        _show(passed)
    raise_failures(prepared.results)


def _show(passed: list[Checked]) -> None:
    headings = [
        "template",
        "result",
        "size",
        "layers",
        "packages",
        "built in",
        "ready",
        "first import",
    ]
    progress.table(headings, [_row(one) for one in passed])
    for one in passed:
        for name, (before, after) in sorted(one.changed.items()):
            progress.show_text(f"{one.name}: {name} of the base: {before} → {after or 'gone'}")
        if one.byte_code > 0:
            share = f"{progress.size(one.byte_code)} of {progress.size(one.size)}"
            progress.show_text(f"{one.name}: byte code of the packages: {share}")
        for line in one.broken:
            progress.show_text(f"{one.name}: broken, and accepted: {line}")
        for note in one.notes:
            progress.show_text(f"{one.name}: note: {note}")


def _row(one: Checked) -> list[Any]:
    first = [f"{level} {progress.duration(s)}" for level, s in first_use_pairs(one.first_use)]
    levels = [level for level in ("none", "disk", "memory") if level in one.ready_seconds]
    ready = [f"{level} {one.ready_seconds[level]:.1f} s" for level in levels]
    return [
        one.name,
        "unchanged" if one.reused else "good",
        progress.size(one.size),
        str(one.layers),
        str(len(one.packages)),
        f"{one.build_seconds:.1f} s",
        ", ".join(ready),
        " → ".join(first) or "-",
    ]
