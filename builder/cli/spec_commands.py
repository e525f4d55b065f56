"""Commands that work on files alone: validate, lock, render, schema."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from builder import render, workflow
from builder.cli import progress
from builder.cli.failures import raise_failures
from builder.cli.options import Json, Names, ProjectFolder, Quiet
from builder.errors import RenderDriftError, StaleLockError, TemplateError, counted
from builder.lock.committed import read_committed
from builder.project import Project
from builder.spec.schemas import schemas
from builder.system.events import Event
from builder.system.files import atomic_write

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the program."""
    for command in (validate, lock, render_command, schema):
        app.command(name=command.__name__.removesuffix("_command"))(command)


def validate(
    names: Names = None, project: ProjectFolder = None, quiet: Quiet = False, as_json: Json = False
) -> None:
    """Check the specs, offline; report every mistake of every file."""
    variants = workflow.select(Project.find(project), names or [])
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
    variants = workflow.select(place, names or [])
    before = read_committed(variants, place.generated)
    with progress.reporting(quiet=quiet, as_json=as_json) as report:
        prepared = workflow.prepare(place, variants, frozen=False, report=report)
    rendered = [one for one in prepared.values() if isinstance(one, render.Rendered)]
    complete = not names and len(rendered) == len(prepared)
    render.write(rendered, place.generated, all_variants=complete)
    changes = {}
    for one in rendered:
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
            count = len(prepared[name].lock.packages)  # type: ignore[union-attr]
            progress.show_text(f"{name}: {counted(count, 'package')}, {len(changed)} changed")
            for package, (old_version, new_version) in changed.items():
                progress.show_text(f"  {package} {old_version or '-'} → {new_version or '-'}")
    raise_failures(prepared)


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
    variants = workflow.select(place, names or [])
    with progress.reporting(quiet=quiet, as_json=as_json) as report:
        prepared = dict(workflow.prepare(place, variants, frozen=True, report=report))
        if check:
            stale = [str(e.message) for e in prepared.values() if isinstance(e, TemplateError)]
            if stale:
                raise RenderDriftError(
                    "\n".join(stale), hint="run `template-builder render` and commit the result"
                )
        else:
            missing = []
            for variant in variants:
                if isinstance(error := prepared[variant.name], StaleLockError):
                    missing.append(variant)
                    report(Event(kind="note", text=f"{error.headline}; locking it now"))
            if missing:
                prepared |= workflow.prepare(place, missing, frozen=False, report=report)
    rendered = [one for one in prepared.values() if isinstance(one, render.Rendered)]
    complete = not names and len(rendered) == len(prepared)
    if check:
        render.drift(rendered, place.generated, all_variants=complete)
    else:
        render.write(rendered, place.generated, all_variants=complete)
    if as_json:
        progress.show_json([{"name": one.variant.name, "digest": one.digest} for one in rendered])
    elif not quiet:
        for one in rendered:
            progress.show_text(f"generated/{one.variant.name}: {one.digest}")
    raise_failures(prepared)


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
