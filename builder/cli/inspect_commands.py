"""Commands that show what is in a build and how builds differ: show, diff, outdated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from builder import operations, registry, workflow
from builder.cli.failures import failure_of
from builder.cli.names import open_registry, template_called
from builder.cli.options import Channel, Name, Names, ProjectFolder, TargetName
from builder.cli.output import Document, Line, Result, Table
from builder.errors import SOMETHING_TO_DO, SelectionError, counted
from builder.operations import compare
from builder.project import Project, isolation_here
from builder.registry import Ref, history
from builder.registry.model import Build, Entry
from builder.registry.references import find_build, split
from builder.system.events import Reporter
from builder.targets.adapters import isolation_words
from builder.targets.measures import with_measures
from builder.workflow import BuildRequest, Context

_SPEC = "spec"
_REST = ("checks", "inputs", "steps", "other_packages", "revocations")


def show(
    name: Name,
    build: Annotated[
        str | None, typer.Argument(metavar="REF", help="A build; by default the channel's.")
    ] = None,
    *,
    target: TargetName = None,
    channel: Channel = registry.DEFAULT_CHANNEL,
    sbom: Annotated[
        bool, typer.Option("--sbom", help="Print its bill of materials: CycloneDX in JSON.")
    ] = False,
    project: ProjectFolder = None,
) -> Result:
    """Show what is in a build, how it was built and checked, and the history of its template."""
    recorded = open_registry(project)
    name, within = split(template_called(name, recorded.templates, project), recorded)
    shown = find_build(recorded, name, build or within or channel, target=target)
    entry = recorded.entry(name, shown.target)
    if sbom:
        from builder.operations.sbom import bill_of_materials

        return Result(data=[Document(bill_of_materials(shown))])
    measured = with_measures(shown.ref, shown.build)
    return Result(
        json={
            "name": shown.name,
            "target": shown.target,
            "ref": shown.ref,
            **measured.to_json(),
            "channels": entry.channels,
            "holds": {channel: hold.to_json() for channel, hold in entry.holds.items()},
            "builds": sorted(entry.builds),
            "history": [event.to_json() for event in entry.history],
        },
        data=[*_build_lines(shown, measured, entry), *_builds(entry), *_history(entry)],
    )


def _build_lines(record: registry.Record, build: Build, entry: Entry) -> Iterator[str]:
    channels = [key for key, ref in sorted(entry.channels.items()) if ref == record.ref]
    suffix = f", channel {' and '.join(channels)}" if channels else ""
    yield f"{record.name} on {record.target}{suffix}: {record.ref}"
    if build.revoked is not None:
        revocation = build.revocation
        yield revocation.replace("r", "R", 1) if build.is_revoked else f"To be {revocation}"
    for channel in channels:
        if hold := entry.holds.get(channel):
            yield f"Channel {channel} is {hold}"
    yield from _lines({k: v for k, v in build.to_json().items() if k not in _REST}, "  ")
    if record.ref.is_local:
        yield f"  sandboxes here: {isolation_words(isolation_here(None))}"
    if others := build.other_packages:
        source = (
            "the kernel and its display packages"
            if record.ref.is_local
            else "the base image and code service"
        )
        packages = ", ".join(f"{package} {version}" for package, version in others.items())
        yield f"  of {source}: {packages}"
    if steps := build.steps:
        yield f"  steps on E2B: {len(steps)}"


def _builds(entry: Entry) -> Iterator[Line]:
    rows = []
    for ref in history.newest_first(entry):
        build = entry.builds[ref]
        pointing = " ".join(key for key, to in sorted(entry.channels.items()) if to == ref)
        rows.append([build.built_at or "-", _state(build), pointing or "-", ref])
    yield "builds, newest first:"
    yield Table(headings=["built at", "state", "channels", "ref"], rows=rows)


def _history(entry: Entry) -> Iterator[Line]:
    if not entry.history:
        return
    yield "history, newest first:"
    yield Table(
        headings=["at", "by", "action", "channel", "from", "to", "reason"],
        rows=[
            [
                *(text or "-" for text in (event.at, event.by, event.action, event.channel)),
                _short(event.before),
                _short(event.to or event.build),
                event.reason or "-",
            ]
            for event in entry.history[::-1]
        ],
    )


def _state(build: Build) -> str:
    at = build.revoked_since
    as_of = f"revoked as of {at}" if at else "revoked"
    if build.is_revoked:
        return as_of
    return build.origin if build.revoked is None else f"{build.origin}, to be {as_of}"


def _short(ref: Ref | None) -> str:
    """Return a ref with a shortened digest, which commands also accept."""
    return ref.short if ref else "-"


def _lines(value: dict[str, Any], indent: str) -> list[str]:
    """Return a line for each value, without empty and unmeasured ones."""
    lines = []
    for key, item in value.items():
        if item in (None, {}, []):
            continue
        if isinstance(item, dict):
            lines += [f"{indent}{key}:", *_lines(item, f"{indent}  ")]
        elif isinstance(item, list):
            lines += [f"{indent}{key}:", *(f"{indent}  - {_in_words(element)}" for element in item)]
        else:
            lines.append(f"{indent}{key}: {_in_words(item)}")
    return lines


def _in_words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_in_words(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_in_words, value))
    return "-" if value is None else str(value)


def diff(
    old: Annotated[
        str, typer.Argument(metavar="A", help="A build: NAME, NAME@CHANNEL, NAME@REF or a ref.")
    ],
    new: Annotated[
        str,
        typer.Argument(metavar="B", help="Another build, a spec file, or `spec`: that of A."),
    ] = _SPEC,
    *,
    target: TargetName = None,
    project: ProjectFolder = None,
) -> Result:
    """Show how two builds differ, or a build and its spec with the committed lock."""
    recorded = open_registry(project)
    sides: list[compare.Side] = []
    name = None
    for side_name in (old, new):
        if side_name.endswith(".toml"):
            sides.append(_spec_side(Project.find(project), side_name))
        elif side_name == _SPEC:
            if name is None:
                raise SelectionError(
                    "`spec` means the spec of the build before it, and there is none",
                    hint="name a build first, or a spec file",
                )
            sides.append(_spec_side(Project.find(project), name))
        else:
            called = template_called(side_name, recorded.templates, project)
            name, wanted = split(called, recorded)
            build = find_build(recorded, name, wanted, target=target)
            sides.append(compare.side_of_build(build, with_measures(build.ref, build.build)))
    labels = [side.label for side in sides]
    differences = compare.compare(*sides)
    table = Table(
        headings=["kind", "name", *labels],
        rows=[[d.kind, d.what, d.old or "-", d.new or "-"] for d in differences],
    )
    return Result(
        json={
            "old": labels[0],
            "new": labels[1],
            "differences": [asdict(difference) for difference in differences],
        },
        data=[table] if differences else [],
        text=[] if differences else [f"no difference between {' and '.join(labels)}"],
    )


def _spec_side(project: Project, side_name: str) -> compare.Side:
    from builder import plan

    request = BuildRequest(names=(side_name,), frozen=True)
    prepared = workflow.prepare(request, Context(project=project), workflow.RENDER)
    if len(prepared.variants) > 1:
        names = ", ".join(f"`{variant.name}`" for variant in prepared.variants)
        raise SelectionError(
            f"`{side_name}` means several templates: {names}", hint="name one of them"
        )
    if error := failure_of(prepared.results):
        raise error
    (rendered,) = prepared.rendered
    return compare.side_of_spec(rendered, plan.program_of(rendered))


def outdated(
    names: Names = None,
    *,
    target: TargetName = None,
    channel: Channel = registry.DEFAULT_CHANNEL,
    max_age: Annotated[
        float,
        typer.Option(
            "--max-age", metavar="DAYS", min=0, help="Report builds older than DAYS days."
        ),
    ] = 90,
    exit_code: Annotated[bool, typer.Option(help="Exit with 2 if a template is outdated.")] = True,
    project: Project,
    report: Reporter,
) -> Result:
    """Show which templates are outdated: what a rebuild with the latest packages would change."""
    request = BuildRequest(names=names or (), channel=channel)
    context = Context.choose(project, target, report=report, connected=False)
    prepared = workflow.prepare(request, context, workflow.RENDER)
    templates = operations.outdated(prepared, context, max_age_days=max_age)
    stale = [f"{t.name} ({t.reasons[0]})" for t in templates if t.reasons]
    return Result(
        json={
            "target": context.target_name,
            "templates": [template.to_json() for template in templates],
        },
        text=[_outdated_table(templates, channel)],
        brief=f"outdated: {', '.join(stale)}" if exit_code and stale else None,
        error=failure_of(prepared.results),
        exit_code=SOMETHING_TO_DO if exit_code and stale else 0,
    )


def _outdated_table(templates: Sequence[operations.Outdated], channel: str) -> Table:
    rows = []
    for template in templates:
        age = "-" if template.age_days is None else counted(template.age_days, "day")
        first, *others = [str(reason) for reason in template.reasons] or ["nothing would change"]
        state = "outdated" if template.reasons else "held" if template.held else "up to date"
        if template.held:
            others.append(f"channel {channel} is {template.held}")
        rows.append([template.name, state, age, first])
        rows += [["", "", "", reason] for reason in others]
    return Table(headings=["template", "state", "age", "reason"], rows=rows)
