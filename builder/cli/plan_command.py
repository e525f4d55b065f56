"""The command that shows what a build would do: plan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated

import typer

from builder import plan, workflow
from builder.cli.failures import failure_of
from builder.cli.options import Channel, Force, Frozen, Names, TargetName
from builder.cli.output import Line, Output, Result, Table
from builder.errors import SOMETHING_TO_DO, BlockedError
from builder.project import Project
from builder.registry import DEFAULT_CHANNEL
from builder.system.events import Reporter
from builder.workflow import BuildRequest, Context


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
            help="Exit with 0 if there is nothing to do, 2 if there is, 31 if a build is blocked.",
        ),
    ] = False,
    report: Reporter,
    output: Output,
) -> Result:
    """Show what `build` would do for each template, and why, without doing it."""
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
    result = Result(json=planned.to_json(), text=_plan_lines(planned, frozen=frozen))
    if not exit_code:
        return replace(result, error=failure_of(prepared.results))
    if planned.blocked:
        blocked = BlockedError(
            f"{len(planned.blocked)} of {len(planned.variants)} templates cannot be built on"
            f" {planned.target}:\n"
            + "\n".join(f"  {name}: {why}" for name, why in planned.blocked.items())
        )
        return replace(result, error=blocked)
    if planned.something_to_do:
        to_do = [v for v in planned.variants if v.action != "skip"]
        brief = f"to do: {', '.join(f'{v.action} {v.name} ({v.reasons[0]})' for v in to_do)}"
        return replace(result, brief=brief, exit_code=SOMETHING_TO_DO)
    return result


def _plan_lines(planned: plan.Plan, *, frozen: bool) -> Iterator[Line]:
    rows = []
    for variant in planned.variants:
        first, *others = [str(reason) for reason in variant.reasons]
        digest = variant.digest.short if variant.digest else "-"
        line, *rest = [line for line in first.splitlines() if line.strip()]
        if variant.digest is None:  # an error, which ends the command and says the rest
            line, rest = line.removesuffix(":"), []
        rows.append([variant.name, variant.action, digest, line])
        rows += [["", "", "", reason] for reason in [*rest, *others]]
    yield Table(headings=["template", "action", "digest", "reason"], rows=rows)
    for stage, names in planned.shared.items():
        yield f"shared: {stage} by {', '.join(names)}"
    yield from _step_lines(planned)
    lines: dict[str, dict[str, None]] = {}  # to the templates of each
    for variant in planned.variants:
        # Notes on new locks were warnings already.
        notes = [variant.stale_base, *(variant.notes if frozen else ())]
        for line in (
            *(f"files: {text}" for text in variant.files),
            *(f"runs: {text}" for text in dict.fromkeys(variant.runs)),
            *(f"not provided by {planned.target}: {text}" for text in variant.unsupported),
            *(f"fetched: {content}" for content in variant.fetched),
            *(f"note: {note}" for note in notes if note),
        ):
            lines.setdefault(line, {})[variant.name] = None
    for line, owners in lines.items():
        yield line if len(owners) == len(planned.variants) else f"{line} ({', '.join(owners)})"


def _step_lines(planned: plan.Plan) -> Iterator[str]:
    """Yield lines about the steps on E2B: all, shared, cached, and instructions without a step."""
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
            *(f"assumed: {assumption}" for assumption in program.assumptions),
        )
    )
    for line in dict.fromkeys(unsent):
        yield f"no step on E2B: {line}"
