"""The command precheck."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from builder import workflow
from builder.cli.failures import failure_of
from builder.cli.options import Frozen, Names
from builder.cli.output import Line, Result, Table, duration, size
from builder.precheck import Checked
from builder.project import Project
from builder.system.events import Reporter
from builder.verify import first_use_pairs
from builder.workflow import BuildRequest, Context

_HEADINGS = (
    "template", "result", "size", "layers", "packages", "duration", "ready", "first import"
)  # fmt: skip


def precheck(
    names: Names = None,
    *,
    project: Project,
    frozen: Frozen = False,
    force: Annotated[
        bool, typer.Option("--force", help="Build and check even if nothing changed.")
    ] = False,
    report: Reporter,
) -> Result:
    """Build templates with Docker, start each image like a sandbox, and check it from inside."""
    request = BuildRequest(names=names or (), frozen=frozen, force=force)
    context = Context(project=project, report=report)
    prepared = workflow.prepare(request, context, workflow.PRECHECK)
    images = list(prepared.checked.values())
    return Result(
        json=[asdict(image) for image in images],
        text=_lines(images),
        error=failure_of(prepared.results),
    )


def _lines(images: Sequence[Checked]) -> Iterator[Line]:
    yield Table(headings=_HEADINGS, rows=[_row(image) for image in images])
    for image in images:
        for name, (before, after) in sorted(image.changed.items()):
            yield f"{image.name}: {name} of the base image: {before} → {after or 'removed'}"
        if image.byte_code > 0:
            share = f"{size(image.byte_code)} of {size(image.size)}"
            yield f"{image.name}: byte code of the packages: {share}"
        for line in image.broken:
            yield f"{image.name}: broken, but accepted: {line}"
        for note in image.notes:
            yield f"{image.name}: note: {note}"


def _row(image: Checked) -> list[str]:
    first = [f"{level} {duration(s)}" for level, s in first_use_pairs(image.first_use)]
    levels = [level for level in ("none", "disk", "memory") if level in image.ready_seconds]
    ready = [f"{level} {image.ready_seconds[level]:.1f} s" for level in levels]
    return [
        image.name,
        "unchanged" if image.reused else "good",
        size(image.size),
        str(image.layers),
        str(len(image.packages)),
        f"{image.build_seconds:.1f} s",
        ", ".join(ready),
        " → ".join(first) or "-",
    ]
