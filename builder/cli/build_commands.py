"""Commands that look at or work on a target: plan, build, verify."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, TypedDict, Unpack

import typer

from builder import operations, plan, workflow
from builder.cli.failures import failure_of
from builder.cli.names import template_called, templates_called
from builder.cli.options import Channel, Frozen, Names, TargetName
from builder.cli.output import Line, Output, Result, Table, duration, size
from builder.errors import (
    SOMETHING_TO_DO,
    BlockedError,
    SelectionError,
    TemplateError,
    counted,
)
from builder.project import PrecheckWhen, Project
from builder.registry import DEFAULT_CHANNEL, Registry
from builder.registry.model import Build
from builder.registry.references import find_build
from builder.system.events import Reporter
from builder.targets.measures import measures_of, with_measures
from builder.verify import first_use_pairs
from builder.workflow import BuildRequest, Context

Force = Annotated[bool, typer.Option("--force", help="Build although nothing changed.")]


def plan_command(
    names: Names = None,
    *,
    project: Project,
    target: TargetName = None,
    channel: Channel = DEFAULT_CHANNEL,
    frozen: Frozen = False,
    force: Force = False,
    exit_code: Annotated[
        bool,
        typer.Option(
            "--exit-code",
            help="End with 0 when there is nothing to do, 2 when there is, 31 when a variant is"
            " blocked, whatever there is to do for others.",
        ),
    ] = False,
    report: Reporter,
    output: Output,
) -> Result:
    """Say what `build` would do with each variant, and why; do nothing."""
    request = BuildRequest(
        names=names or (),
        channel=channel,
        frozen=frozen,
        force=force,
        steps=True if output.as_json else False if output.quiet else None,
    )
    context = Context.choose(project, target, report=report)
    prepared = workflow.prepare(request, context, workflow.PLAN)
    planned = prepared.plan
    assert planned
    result = Result(json=planned.to_json(), text=_plan_lines(planned))
    if not exit_code:
        return replace(result, error=failure_of(prepared.results))
    if planned.blocked:
        blocked = BlockedError(
            f"{len(planned.blocked)} of {len(planned.variants)} variants cannot be built on"
            f" {planned.target}:\n"
            + "\n".join(f"  {name}: {why}" for name, why in planned.blocked.items())
        )
        return replace(result, error=blocked)
    if planned.something_to_do:
        to_do = [v for v in planned.variants if v.action != "skip"]
        brief = f"to do: {', '.join(f'{v.action} {v.name} ({v.reasons[0]})' for v in to_do)}"
        return replace(result, brief=brief, exit_code=SOMETHING_TO_DO)
    return result


def _plan_lines(planned: plan.Plan) -> Iterator[Line]:
    rows = []
    for variant in planned.variants:
        first, *others = [str(reason) for reason in variant.reasons]
        digest = variant.digest.removeprefix("sha256:")[:12] if variant.digest else "-"
        line, *rest = [line for line in first.splitlines() if line.strip()]
        if variant.digest is None:  # an error, which ends the command and says the rest
            line, rest = line.removesuffix(":"), []
        rows.append([variant.name, variant.action, digest, line])
        rows += [["", "", "", reason] for reason in [*rest, *others]]
    yield Table(headings=["template", "action", "digest", "because"], rows=rows)
    for stage, names in planned.shared.items():
        yield f"shared: {stage} by {', '.join(names)}"
    yield from _step_lines(planned)
    unsupported = {
        line: [v.name for v in planned.variants if line in v.unsupported]
        for v in planned.variants
        for line in v.unsupported
    }
    for line, variants in unsupported.items():
        only = "" if len(variants) == len(planned.variants) else f" ({', '.join(variants)})"
        yield f"not provided by {planned.target}: {line}{only}"
    notes = (n for v in planned.variants for n in (v.stale_base, *v.notes) if n)
    for note in dict.fromkeys(notes):
        yield f"note: {note}"


def _step_lines(planned: plan.Plan) -> Iterator[str]:
    """What E2B would run, what of it once for several, and what is no step of it."""
    programs = {v.name: v.program for v in planned.variants if v.program}
    for name, program in programs.items():
        yield (
            f"steps on E2B: {name}: {len(program.steps)},"
            f" instead of {program.steps_before} line by line"
        )
    for count, names in planned.shared_steps:
        yield f"shared steps: the first {count} by {', '.join(names)}"
    for variant in planned.variants:
        if variant.cached:
            owner = f"`{variant.cached_by}`" if variant.cached_by else "an earlier build"
            yield (
                f"from the cache: the first {variant.cached} of {len(variant.step_keys)} steps of"
                f" {variant.name}, those of {owner}"
            )
    unsent = (
        line
        for program in programs.values()
        for line in (
            *(f"{m.instruction}: {m.why}" for m in program.metadata),
            *(f"taken for granted {assumption}" for assumption in program.assumptions),
        )
    )
    for line in dict.fromkeys(unsent):
        yield f"no step on E2B: {line}"


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
    digest = (outcome.digest or "").removeprefix("sha256:")[:12] or "-"
    ref = outcome.ref or "-"
    if "@sha256-" in ref:
        ref = ref[: ref.index("@sha256-") + len("@sha256-") + 12] + "…"
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


def verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME",
            help="Template names, each with @REF for another build than the channel's.",
        ),
    ] = None,
    *,
    project: Project,
    target: TargetName = None,
    channel: Channel = DEFAULT_CHANNEL,
    report: Reporter,
) -> Result:
    """Run the checks of recorded builds again, in fresh sandboxes of them.

    A build is checked against what was promised when it was made, whatever its spec says by now:
    that of the channel, or another one, as NAME REF or NAME@REF.
    """
    passed: dict[str, operations.Reverified] = {}
    failed: dict[str, TemplateError] = {}
    context = Context.choose(project, target, report=report)
    on = context.connected().name
    recorded = context.registry.now()
    for name, ref in _builds_named(project, recorded, names or []):
        try:
            build = (
                find_build(recorded, name, ref, target=on)
                if ref
                else recorded.lookup(name, target=on, channel=channel)
            )
            passed[name] = operations.reverify(build, context)
        except TemplateError as error:
            failed[name] = error
    return Result(
        json={name: verified.to_json() for name, verified in passed.items()},
        text=_verified_lines(passed),
        error=failure_of(failed),
    )


def _verified_lines(passed: Mapping[str, operations.Reverified]) -> Iterator[str]:
    for name, reverified in passed.items():
        checks = reverified.verified.checks
        yield f"{name}: {counted(len(checks), 'check')} passed ({reverified.found.ref})"
        for check in checks:
            yield f"  {check.name} ({duration(check.seconds)})"
        if not checks:
            yield "  nothing to check is recorded: a sandbox starts and lists its packages"
        for check_name in reverified.left_out:
            yield f"  not run, since its record does not have it: {check_name}"


def _builds_named(
    project: Project, recorded: Registry, names: list[str]
) -> Iterator[tuple[str, str | None]]:
    """The templates that are meant, each with the build that is, if one is named."""
    if not names:
        yield from ((variant.name, None) for variant in workflow.variants_called(project, []))
        return
    if len(names) == 2 and not workflow.template_names(
        names[1].partition("@")[0], recorded.templates, project
    ):
        yield template_called(names[0], recorded.templates, project.root), names[1]
        return
    for name in names:
        head, _, build = name.partition("@")
        for template in sorted(templates_called([head], recorded, project.root)):
            yield template, build or None
