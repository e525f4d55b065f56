"""The command that builds, verifies and records templates: build."""

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
from builder.workflow.carry_out import build_all

_HEADINGS = ("template", "result", "ref", "packages", "size", "duration", "first import")


class BuildOptions(TypedDict):
    """The options of `build` that are fields of a `BuildRequest`."""

    channel: Channel
    frozen: Frozen
    force: Force
    refresh_base: Annotated[
        bool,
        typer.Option(
            "--refresh-base",
            help="Have E2B fetch base images again that are not pinned to a digest, and rebuild on"
            " them.",
        ),
    ]
    release: Annotated[
        bool,
        typer.Option("--release", help="Move the channel even if it is on hold, and end the hold."),
    ]
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            "-j",
            min=1,
            max=64,
            help="Builds at a time; by default as many as the target allows.",
        ),
    ]
    require_cache: Annotated[
        bool,
        typer.Option("--require-cache", help="Fail if E2B runs a step that should be cached."),
    ]
    accept_fallback: Annotated[
        bool,
        typer.Option(
            "--accept-fallback",
            help="Build on E2B even if PyTorch is not from the index that the spec names.",
        ),
    ]
    with_children: Annotated[
        bool,
        typer.Option(
            "--with-children",
            help="Then build the templates that are from these, in order.",
        ),
    ]
    precheck: Annotated[
        PrecheckWhen | None,
        typer.Option(
            "--precheck",
            metavar="[auto|always|never]",
            help="Whether to pre-check with Docker first; by default as in pyproject.toml.",
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
    """Build templates from their specs, verify each in a real sandbox, and record it."""
    if options["require_cache"] and (options["force"] or options["refresh_base"]):
        option = "--force" if options["force"] else "--refresh-base"
        raise SelectionError(
            f"{option} runs steps again, and --require-cache fails if they are",
            hint="use only one of the two",
        )
    request = BuildRequest(names=names or (), **options)
    done = build_all(request, Context.choose(project, target, report=report, opens=True))
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
            Table(headings=_HEADINGS, rows=[_row(outcome) for outcome in done.outcomes]),
            *done.notes,
        ],
        error=failure_of(done.errors),
    )


def _row(outcome: workflow.Outcome) -> list[str]:
    build = with_measures(outcome.ref or "", outcome.build or Build())
    return [
        outcome.name,
        f"{outcome.action}, overtaken" if outcome.overtaken else outcome.action,
        outcome.ref or "-",
        "-" if build.is_adopted or not outcome.build else str(len(build.packages)),
        size(build.size_bytes) if build.size_bytes is not None else "-",
        f"{outcome.seconds:.1f} s",
        _first_import(build),
    ]


def _first_import(build: Build) -> str:
    levels = build.seconds.first_use
    return " → ".join(f"{level} {duration(s)}" for level, s in first_use_pairs(levels)) or "-"
