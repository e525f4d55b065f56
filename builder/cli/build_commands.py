"""Commands that look at or work on a target: plan, build, verify."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from builder import operations, plan, workflow
from builder.cli import progress
from builder.cli.failures import raise_failures
from builder.cli.names import template_called, templates_called
from builder.cli.options import Channel, Frozen, Json, Names, ProjectFolder, Quiet, TargetName
from builder.errors import (
    SOMETHING_TO_DO,
    BlockedError,
    SelectionError,
    TemplateError,
    counted,
)
from builder.project import PrecheckWhen, Project
from builder.registry import DEFAULT_CHANNEL, Registry
from builder.registry.references import find_build
from builder.targets.measures import measures_of, with_measures
from builder.verify import first_use_pairs
from builder.workflow import BuildRequest, Context

__all__ = ["register"]

Force = Annotated[bool, typer.Option("--force", help="Build although nothing changed.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the program."""
    for command in (plan_command, build, verify):
        app.command(name=command.__name__.removesuffix("_command"))(command)


def plan_command(
    names: Names = None,
    project: ProjectFolder = None,
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
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Say what `build` would do with each variant, and why; do nothing."""
    request = BuildRequest(
        names=names or (),
        channel=channel,
        frozen=frozen,
        force=force,
        steps=True if as_json else False if quiet else None,
    )
    with progress.reporting(quiet=quiet, as_json=as_json) as report:
        context = Context.choose(Project.find(project), target, report=report)
        prepared = workflow.prepare(request, context, workflow.PLAN)
    planned = prepared.plan
    assert planned
    if as_json:
        progress.show_json(planned.to_json())
    elif not quiet:
        _show_plan(planned)
    if not exit_code:
        raise_failures(prepared.results)
        return
    if planned.blocked:
        raise BlockedError(
            f"{len(planned.blocked)} of {len(planned.variants)} variants cannot be built on"
            f" {planned.target}:\n"
            + "\n".join(f"  {name}: {why}" for name, why in planned.blocked.items())
        )
    if planned.something_to_do:
        if quiet and not as_json:
            to_do = [v for v in planned.variants if v.action != "skip"]
            progress.show_message(
                f"to do: {', '.join(f'{v.action} {v.name} ({v.reasons[0]})' for v in to_do)}"
            )
        raise typer.Exit(SOMETHING_TO_DO)


def _show_plan(planned: plan.Plan) -> None:
    rows = []
    for variant in planned.variants:
        first, *others = [str(reason) for reason in variant.reasons]
        digest = variant.digest.removeprefix("sha256:")[:12] if variant.digest else "-"
        line, *rest = [line for line in first.splitlines() if line.strip()]
        if variant.digest is None:  # an error, which ends the command and says the rest
            line, rest = line.removesuffix(":"), []
        rows.append([variant.name, variant.action, digest, line])
        rows += [["", "", "", reason] for reason in [*rest, *others]]
    progress.table(["template", "action", "digest", "because"], rows)
    for stage, names in planned.shared.items():
        progress.show_text(f"shared: {stage} by {', '.join(names)}")
    _show_steps(planned)
    unsupported = {
        line: [v.name for v in planned.variants if line in v.unsupported]
        for v in planned.variants
        for line in v.unsupported
    }
    for line, whom in unsupported.items():
        whose = "" if len(whom) == len(planned.variants) else f" ({', '.join(whom)})"
        progress.show_text(f"not provided by {planned.target}: {line}{whose}")
    notes = (n for v in planned.variants for n in (v.stale_base, *v.notes) if n)
    for note in dict.fromkeys(notes):
        progress.show_text(f"note: {note}")


def _show_steps(planned: plan.Plan) -> None:
    """What E2B would run, what of it once for several, and what is no step of it."""
    for variant in planned.variants:
        if program := variant.program:
            progress.show_text(
                f"steps on E2B: {variant.name}: {len(program.steps)},"
                f" instead of {program.steps_before} line by line"
            )
    for count, names in planned.shared_steps:
        progress.show_text(f"shared steps: the first {count} by {', '.join(names)}")
    for variant in planned.variants:
        if variant.cached:
            whose = f"`{variant.cached_by}`" if variant.cached_by else "an earlier build"
            progress.show_text(
                f"from the cache: the first {variant.cached} of {len(variant.step_keys)} steps of"
                f" {variant.name}, those of {whose}"
            )
    unsent = {
        line: None
        for variant in planned.variants
        if variant.program
        for line in (
            *(f"{m.instruction}: {m.why}" for m in variant.program.metadata),
            *(f"taken for granted {assumption}" for assumption in variant.program.assumptions),
        )
    }
    for line in unsent:
        progress.show_text(f"no step on E2B: {line}")


def build(
    names: Names = None,
    project: ProjectFolder = None,
    target: TargetName = None,
    channel: Channel = DEFAULT_CHANNEL,
    frozen: Frozen = False,
    force: Force = False,
    refresh_base: Annotated[
        bool,
        typer.Option(
            "--refresh-base",
            help="Have E2B fetch base images anew that are not pinned to a digest, and build on"
            " them although nothing changed.",
        ),
    ] = False,
    release: Annotated[
        bool, typer.Option("--release", help="Move a channel that is on hold, and lift that.")
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs", "-j", min=1, max=64, help="Builds at a time; what the target takes if unset."
        ),
    ] = None,
    require_cache: Annotated[
        bool,
        typer.Option(
            "--require-cache", help="Fail when E2B runs a step that the plan says is cached."
        ),
    ] = False,
    accept_fallback: Annotated[
        bool,
        typer.Option(
            "--accept-fallback",
            help="Build on E2B although PyTorch is not from the index that the spec asks for.",
        ),
    ] = False,
    precheck: Annotated[
        PrecheckWhen | None,
        typer.Option(
            "--precheck",
            metavar="[auto|always|never]",
            help="Whether to build and check with Docker first; as in pyproject.toml by default.",
        ),
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Lock, render, build, verify in a real sandbox, and record."""
    if require_cache and (force or refresh_base):
        option = "--force" if force else "--refresh-base"
        raise SelectionError(
            f"{option} runs steps anew, and --require-cache fails when they are",
            hint="leave one of them out",
        )
    request = BuildRequest(
        names=names or (),
        channel=channel,
        frozen=frozen,
        force=force,
        refresh_base=refresh_base,
        release=release,
        jobs=jobs,
        require_cache=require_cache,
        accept_fallback=accept_fallback,
        precheck=precheck,
    )
    with progress.reporting(quiet=quiet, as_json=as_json) as report:
        context = Context.choose(Project.find(project), target, report=report)
        done = workflow.build_all(request, context)
    if as_json:
        outcomes = [
            outcome.to_json() | {"measured": measures_of(outcome.ref or "", outcome.fields or {})}
            for outcome in done.outcomes
        ]
        progress.show_json({"target": done.plan.target, "outcomes": outcomes})
    elif not quiet:
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
        progress.table(headings, [_row(outcome) for outcome in done.outcomes])
        for note in done.notes:
            progress.show_text(note)
    raise_failures(done.errors)


def _row(outcome: workflow.Outcome) -> list[str]:
    fields = with_measures(outcome.ref or "", outcome.fields or {})
    digest = (outcome.digest or "").removeprefix("sha256:")[:12] or "-"
    ref = outcome.ref or "-"
    if "@sha256-" in ref:
        ref = ref[: ref.index("@sha256-") + len("@sha256-") + 12] + "…"
    size = fields.get("size_bytes")
    return [
        outcome.name,
        f"{outcome.action}, overtaken" if outcome.overtaken else outcome.action,
        ref,
        digest,
        str(len(fields["packages"])) if "packages" in fields else "-",
        progress.size(size) if size is not None else "-",
        f"{outcome.seconds:.1f} s",
        _first_import(fields),
    ]


def _first_import(fields: Any) -> str:
    levels = fields.get("verified", {}).get("seconds", {}).get("first_use", {})
    return (
        " → ".join(f"{level} {progress.duration(s)}" for level, s in first_use_pairs(levels)) or "-"
    )


def verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME",
            help="Template names, each with @REF for another build than the channel's.",
        ),
    ] = None,
    project: ProjectFolder = None,
    target: TargetName = None,
    channel: Channel = DEFAULT_CHANNEL,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Run the checks of recorded builds again, in fresh sandboxes of them.

    A build is checked against what was promised when it was made, whatever its spec says by now:
    that of the channel, or another one, as NAME REF or NAME@REF.
    """
    place = Project.find(project)
    passed: dict[str, operations.Reverified] = {}
    failed: dict[str, TemplateError] = {}
    with progress.reporting(quiet=quiet, as_json=as_json) as report:
        context = Context.choose(place, target, report=report)
        on = context.connected().name
        recorded = context.registry.now()
        for name, build in _builds_named(place, recorded, names or []):
            try:
                build_meant = (
                    find_build(recorded, name, build, target=on)
                    if build
                    else recorded.lookup(name, target=on, channel=channel)
                )
                passed[name] = operations.reverify(build_meant, context)
            except TemplateError as error:
                failed[name] = error
    if as_json:
        progress.show_json({name: one.to_json() for name, one in passed.items()})
    elif not quiet:
        for name, one in passed.items():
            checks = one.verified.checks
            progress.show_text(f"{name}: {counted(len(checks), 'check')} passed ({one.found.ref})")
            for check in checks:
                progress.show_text(f"  {check.name} ({progress.duration(check.seconds)})")
            if not checks:
                progress.show_text(
                    "  nothing to check is recorded: a sandbox starts and lists its packages"
                )
            for check_name in one.left_out:
                progress.show_text(f"  not run, since its record does not have it: {check_name}")
    raise_failures(failed)


def _builds_named(
    place: Project, recorded: Registry, names: list[str]
) -> Iterator[tuple[str, str | None]]:
    """The templates that are meant, each with the build that is, if one is named."""
    if not names:
        yield from ((variant.name, None) for variant in workflow.variants_called(place, []))
        return
    if len(names) == 2 and not workflow.template_names(
        names[1].partition("@")[0], recorded.templates, place
    ):
        yield template_called(names[0], recorded.templates, place.root), names[1]
        return
    for name in names:
        head, _, build = name.partition("@")
        for template in sorted(templates_called([head], recorded, place.root)):
            yield template, build or None
