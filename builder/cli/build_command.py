"""The command that builds what is outdated, verifies and records it: build."""

from __future__ import annotations

from typing import Annotated, TypedDict, Unpack

import typer

from builder import workflow
from builder.cli.failures import failure_of
from builder.cli.options import Channel, Force, Frozen, Names, TargetName
from builder.cli.output import Result, Table, duration, size
from builder.errors import SelectionError
from builder.project import PrecheckWhen, Project
from builder.registry.model import Build
from builder.system.events import Reporter
from builder.targets.measures import measures_of, with_measures
from builder.verify import first_use_pairs
from builder.workflow import BuildRequest, Context


class BuildOptions(TypedDict):
    """What `build` takes beside names and a target: the fields of a `BuildRequest`."""

    channel: Channel
    frozen: Frozen
    force: Force
    refresh_base: Annotated[
        bool,
        typer.Option(
            "--refresh-base",
            help="Have E2B fetch base images anew that are not pinned to a digest, and build on"
            " them although nothing changed.",
        ),
    ]
    release: Annotated[
        bool, typer.Option("--release", help="Move a channel that is on hold, and lift that.")
    ]
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs", "-j", min=1, max=64, help="Builds at a time; what the target takes if unset."
        ),
    ]
    require_cache: Annotated[
        bool,
        typer.Option(
            "--require-cache", help="Fail when E2B runs a step that the plan says is cached."
        ),
    ]
    accept_fallback: Annotated[
        bool,
        typer.Option(
            "--accept-fallback",
            help="Build on E2B although PyTorch is not from the index that the spec asks for.",
        ),
    ]
    precheck: Annotated[
        PrecheckWhen | None,
        typer.Option(
            "--precheck",
            metavar="[auto|always|never]",
            help="Whether to build and check with Docker first; as in pyproject.toml by default.",
        ),
    ]


def build(
    names: Names = None,
    *,
    project: Project,
    target: TargetName = None,
    report: Reporter,
    **options: Unpack[BuildOptions],
) -> Result:
    """Lock, render, build, verify in a real sandbox, and record."""
    if options["require_cache"] and (options["force"] or options["refresh_base"]):
        option = "--force" if options["force"] else "--refresh-base"
        raise SelectionError(
            f"{option} runs steps anew, and --require-cache fails when they are",
            hint="leave one of them out",
        )
    request = BuildRequest(names=names or (), **options)
    done = workflow.build_all(request, Context.choose(project, target, report=report))
    headings = [
        "template",
        "result",
        "ref",
        "digest",
        "packages",
        "size",
        "built in",
        "first import",
    ]
    return Result(
        json={
            "target": done.plan.target,
            "outcomes": [
                outcome.to_json()
                | {"measured": measures_of(outcome.ref or "", outcome.build or Build())}
                for outcome in done.outcomes
            ],
        },
        text=[
            Table(headings=headings, rows=[_row(outcome) for outcome in done.outcomes]),
            *done.notes,
        ],
        error=failure_of(done.errors),
    )


def _row(outcome: workflow.Outcome) -> list[str]:
    build = with_measures(outcome.ref or "", outcome.build or Build())
    digest = outcome.digest.short if outcome.digest else "-"
    ref = outcome.ref.short if outcome.ref else "-"
    return [
        outcome.name,
        f"{outcome.action}, overtaken" if outcome.overtaken else outcome.action,
        ref,
        digest,
        "-" if build.is_adopted or not outcome.build else str(len(build.packages)),
        size(build.size_bytes) if build.size_bytes is not None else "-",
        f"{outcome.seconds:.1f} s",
        _first_import(build),
    ]


def _first_import(build: Build) -> str:
    levels = build.seconds.first_use
    return " → ".join(f"{level} {duration(s)}" for level, s in first_use_pairs(levels)) or "-"
