"""Commands that work on files alone: validate, lock, render, schema."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Annotated

import typer

from builder import render, workflow
from builder.cli.failures import failure_of
from builder.cli.options import Names
from builder.cli.output import Output, Result
from builder.errors import RenderDriftError, TemplateError, counted
from builder.lock.committed import read_committed
from builder.project import Project
from builder.sandbox.session import CODE_SERVICE_PORT
from builder.spec import Variant
from builder.spec.changing import warnings_of
from builder.spec.models import schemas
from builder.system.events import Reporter
from builder.system.files import atomic_write
from builder.targets.e2b.code_service import service_doubts
from builder.workflow import BuildRequest, Context


def validate(names: Names = None, *, project: Project) -> Result:
    """Check the specs and report every mistake in every file.

    It needs no network, unless a spec refers to a variable of its base image that is not locked.
    """
    variants = workflow.variants_called(project, names or [])
    workflow.check_references(variants, project)
    return Result(
        json=[
            {"name": v.name, "source": v.source, "stages": [s.stem for s in v.stages]}
            for v in variants
        ],
        text=[
            *(line for variant in variants for line in _valid(variant)),
            *(f"{place}: warning: {text}" for place, text, _ in warnings_of(variants)),
            *(
                f"{place}: warning: `service.command`: {text}"
                for variant in variants
                for place, text in service_doubts(variant)
            ),
        ],
    )


def _valid(variant: Variant) -> Iterator[str]:
    yield (
        f"{variant.source}: {variant.name}"
        f" ({' → '.join(stage.stem for stage in variant.stages)}): valid"
    )
    if variant.command and not variant.runs_code:
        yield (
            f"{variant.source}: {variant.name}: nothing runs code in its sandboxes on E2B, since"
            f" `service.{variant.ready_key}` is not about http://localhost:{CODE_SERVICE_PORT},"
            " where E2B's code service answers; verify another service by checks with `command` or"
            " `http`"
        )
    if not variant.command:
        yield (
            f"{variant.source}: {variant.name}: nothing runs code in its sandboxes on E2B, since"
            f" `base.image` is {variant.image}; remove `base.image` to get E2B's code interpreter,"
            " or start a code service with [service]"
        )


def lock(names: Names = None, *, project: Project, report: Reporter) -> Result:
    """Resolve the latest packages and base image, and write them to generated/."""
    context = Context(project=project, report=report)
    prepared = workflow.prepare(BuildRequest(names=names or ()), context, workflow.RENDER)
    before = read_committed(prepared.variants, project.generated)
    render.write(prepared.rendered, project.generated, all_variants=prepared.complete)
    changes = {}
    for variant in prepared.rendered:
        committed = before[variant.variant.name]
        old = {} if isinstance(committed, TemplateError) else committed.packages
        new = variant.lock.packages
        changes[variant.variant.name] = {
            package: (old.get(package), new.get(package))
            for package in sorted({*old, *new})
            if old.get(package) != new.get(package)
        }
    counts = {variant.variant.name: len(variant.lock.packages) for variant in prepared.rendered}
    return Result(
        json={"changes": changes},
        text=_lock_lines(changes, counts),
        error=failure_of(prepared.results),
    )


def _lock_lines(
    changes: Mapping[str, Mapping[str, tuple[str | None, str | None]]], counts: Mapping[str, int]
) -> Iterator[str]:
    for name, changed in changes.items():
        yield f"{name}: {counted(counts[name], 'package')}, {len(changed)} changed"
        for package, (old, new) in changed.items():
            yield f"  {package} {old or '-'} → {new or '-'}"


def render_command(
    names: Names = None,
    *,
    project: Project,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail if generated/ differs.")
    ] = False,
    report: Reporter,
) -> Result:
    """Write generated/ from the specs and their locks; lock specs without one."""
    request = BuildRequest(names=names or (), frozen=True, lock_stale=not check)
    context = Context(project=project, report=report)
    prepared = workflow.prepare(request, context, workflow.RENDER)
    stale = [e.message for e in prepared.results.values() if isinstance(e, TemplateError)]
    if check and stale:
        raise RenderDriftError(
            "\n".join(stale), hint="run `template-builder render` and commit the result"
        )
    write_or_compare = render.drift if check else render.write
    write_or_compare(prepared.rendered, project.generated, all_variants=prepared.complete)
    digests = {variant.variant.name: variant.digest for variant in prepared.rendered}
    return Result(
        json=[{"name": name, "digest": digest} for name, digest in digests.items()],
        text=[f"generated/{name}: {digest}" for name, digest in digests.items()],
        error=failure_of(prepared.results),
    )


def schema(
    *,
    project: Project,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail if schemas/ differs.")
    ] = False,
    output: Output,
) -> Result:
    """Write the JSON schemas of the file formats to schemas/."""
    contents = schemas()
    if output.as_json:
        return Result(json=contents)
    drifted = []
    for name, content in contents.items():
        path = project.schemas / f"{name}.schema.json"
        text = json.dumps(content, indent=2) + "\n"
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            drifted.append(f"schemas/{path.name}")
            if not check:
                atomic_write(path, text.encode())
    if check and drifted:
        raise RenderDriftError(
            f"{' and '.join(drifted)} differs from the models", hint="run `template-builder schema`"
        )
    return Result(text=[f"schemas/{name}.schema.json" for name in contents])
