"""Commands that work on files alone: validate, lock, render, schema."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from builder import render, workflow
from builder.cli import progress
from builder.cli.failures import raise_failures
from builder.cli.options import Json, Names, ProjectFolder, Quiet
from builder.errors import RenderDriftError, TemplateError, counted
from builder.lock.committed import read_committed
from builder.project import Project
from builder.spec.schemas import schemas
from builder.system.files import atomic_write
from builder.workflow import BuildRequest, Context

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the program."""
    for command in (validate, lock, render_command, schema):
        app.command(name=command.__name__.removesuffix("_command"))(command)


def validate(
    names: Names = None, project: ProjectFolder = None, quiet: Quiet = False, as_json: Json = False
) -> None:
    """Check the specs, offline; report every mistake of every file."""
    variants = workflow.variants_called(Project.find(project), names or [])
    if as_json:
        progress.show_json(
            [
                {"name": v.name, "source": v.source, "stages": [s.stem for s in v.stages]}
                for v in variants
            ]
        )
    elif not quiet:
        for variant in variants:
            chain = " → ".join(stage.stem for stage in variant.stages)
            progress.show_text(f"{variant.source}: {variant.name} ({chain}): valid")


def lock(
    names: Names = None, project: ProjectFolder = None, quiet: Quiet = False, as_json: Json = False
) -> None:
    """Resolve the latest packages and base image, and write them to generated/."""
    place = Project.find(project)
    with progress.reporting(quiet=quiet, as_json=as_json) as report:
        context = Context(project=place, report=report)
        prepared = workflow.prepare(BuildRequest(names=names or ()), context, workflow.RENDER)
    before = read_committed(prepared.variants, place.generated)
    render.write(prepared.rendered, place.generated, all_variants=prepared.complete)
    counts = {one.variant.name: len(one.lock.packages) for one in prepared.rendered}
    changes = {}
    for one in prepared.rendered:
        old = before[one.variant.name]
        was = {} if isinstance(old, TemplateError) else old.packages
        now = one.lock.packages
        changes[one.variant.name] = {
            package: [was.get(package), now.get(package)]
            for package in sorted({*was, *now})
            if was.get(package) != now.get(package)
        }
    if as_json:
        progress.show_json({"changes": changes})
    elif not quiet:
        for name, changed in changes.items():
            progress.show_text(
                f"{name}: {counted(counts[name], 'package')}, {len(changed)} changed"
            )
            for package, (old_version, new_version) in changed.items():
                progress.show_text(f"  {package} {old_version or '-'} → {new_version or '-'}")
    raise_failures(prepared.results)


def render_command(
    names: Names = None,
    project: ProjectFolder = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail when generated/ differs.")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write generated/ from the specs and the committed locks; lock what has no lock yet."""
    place = Project.find(project)
    request = BuildRequest(names=names or (), frozen=True, lock_stale=not check)
    with progress.reporting(quiet=quiet, as_json=as_json) as report:
        context = Context(project=place, report=report)
        prepared = workflow.prepare(request, context, workflow.RENDER)
    stale = [e.message for e in prepared.results.values() if isinstance(e, TemplateError)]
    if check and stale:
        raise RenderDriftError(
            "\n".join(stale), hint="run `template-builder render` and commit the result"
        )
    if check:
        render.drift(prepared.rendered, place.generated, all_variants=prepared.complete)
    else:
        render.write(prepared.rendered, place.generated, all_variants=prepared.complete)
    if as_json:
        progress.show_json(
            [{"name": one.variant.name, "digest": one.digest} for one in prepared.rendered]
        )
    elif not quiet:
        for one in prepared.rendered:
            progress.show_text(f"generated/{one.variant.name}: {one.digest}")
    raise_failures(prepared.results)


def schema(
    project: ProjectFolder = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail when schemas/ differs.")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write the JSON schemas of the file formats to schemas/."""
    place = Project.find(project)
    found: dict[str, Any] = schemas()
    if as_json:
        progress.show_json(found)
        return
    drifted = []
    for name, content in found.items():
        path = place.schemas / f"{name}.schema.json"
        text = json.dumps(content, indent=2) + "\n"
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            drifted.append(f"schemas/{path.name}")
            if not check:
                atomic_write(path, text.encode())
    if check and drifted:
        raise RenderDriftError(
            f"{' and '.join(drifted)} differs from the models", hint="run `template-builder schema`"
        )
    for name in () if quiet else found:
        progress.show_text(f"schemas/{name}.schema.json")
