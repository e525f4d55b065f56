"""The command precheck, and the part of build that is the same."""

from __future__ import annotations

import enum
from typing import Annotated, Any

import typer

from builder import workflow
from builder.cli import progress
from builder.cli.failures import raise_failures
from builder.cli.options import Frozen, Json, Names, ProjectFolder, Quiet
from builder.errors import EngineUnavailableError, NetworkError, StorageError, TemplateError
from builder.plan import Plan
from builder.precheck import Checked
from builder.project import Project
from builder.render import Rendered, write
from builder.system.events import Event, Reporter
from builder.verify import first_use_pairs

__all__ = ["PrecheckWhen", "prechecked", "register"]

# What is wrong with the engine, and nothing about the template: it cannot pull, its disk is full.
_OF_THE_ENGINE = (EngineUnavailableError, NetworkError, StorageError)


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
    place = Project.find(project)
    variants = workflow.select(place, names or [])
    with progress.reporting(quiet=quiet, as_json=as_json) as report:
        # Before anything is resolved: without an engine there is nothing to do here.
        from builder.precheck.engine import DockerEngine

        engine = DockerEngine(place.precheck)
        engine.tidy()
        prepared = workflow.prepare(place, variants, frozen=frozen, report=report)
        rendered = [one for one in prepared.values() if isinstance(one, Rendered)]
        write(rendered, place.generated, all_variants=False)
        found = workflow.precheck_all(place, prepared, engine, force=force, report=report)
    passed = [one for one in found.values() if isinstance(one, Checked)]
    if as_json:
        progress.show_json([one.to_json() for one in passed])
    elif not quiet:
        _show(passed)
    raise_failures(found)


class PrecheckWhen(enum.StrEnum):
    """When `build` pre-checks; `auto`: where an engine answers and is able to, and the target
    builds from the Dockerfile."""

    auto = "auto"
    always = "always"
    never = "never"


def prechecked(
    project: Project,
    prepared: workflow.Prepared,
    planned: Plan,
    builds_dockerfile: bool,
    when: PrecheckWhen,
    *,
    report: Reporter,
) -> workflow.Prepared:
    """Pre-check what is planned to be built; what fails maps to its error from then on.

    With `auto`, what the engine itself is not able to do stops no build: it is a warning.
    """
    names = [variant.name for variant in planned.variants if variant.action == "build"]
    if not names or when is PrecheckWhen.never:
        return prepared
    if when is PrecheckWhen.auto and not builds_dockerfile:
        why = "this target does not build from the Dockerfile; --precheck always does it anyway"
        report(Event(kind="note", text=f"not pre-checked with Docker: {why}"))
        return prepared
    from builder.precheck.engine import DockerEngine

    try:
        engine = DockerEngine(project.precheck)
    except EngineUnavailableError as error:
        if when is PrecheckWhen.always:
            raise
        report(Event(kind="note", text=f"not pre-checked: {error.message}; {error.hint}"))
        return prepared
    engine.tidy()
    chosen = {name: prepared[name] for name in names}
    tolerated = _OF_THE_ENGINE if when is PrecheckWhen.auto else ()
    found = workflow.precheck_all(
        project, chosen, engine, force=False, tolerated=tolerated, report=report
    )
    failed = {
        name: one
        for name, one in found.items()
        if isinstance(one, TemplateError) and not isinstance(one, tolerated)
    }
    return {**prepared, **failed}


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
