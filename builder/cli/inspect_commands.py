"""Commands that tell what is in a build and how builds differ: show, diff, outdated."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from builder import operations, registry, workflow
from builder.cli import progress
from builder.cli.failures import raise_failures
from builder.cli.names import template_called
from builder.cli.options import Channel, Json, Names, ProjectFolder, Quiet, TargetName
from builder.cli.registry_commands import open_registry
from builder.errors import SOMETHING_TO_DO, SelectionError, counted
from builder.project import Project
from builder.registry import history
from builder.registry.holds import hold_of
from builder.registry.references import find_build, split
from builder.targets.measures import with_measures
from builder.workflow import BuildRequest, Context

__all__ = ["register"]

_SPEC = "spec"
_REST = ("checks", "inputs", "steps", "other_packages", "revocations")


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the program."""
    for command in (show, diff, outdated):
        app.command()(command)


def show(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The template's name, or its file's.")
    ],
    build: Annotated[
        str | None, typer.Argument(metavar="REF", help="A build of it; the channel's by default.")
    ] = None,
    target: TargetName = None,
    channel: Channel = registry.DEFAULT_CHANNEL,
    sbom: Annotated[
        bool, typer.Option("--sbom", help="Its bill of materials: CycloneDX in JSON.")
    ] = False,
    project: ProjectFolder = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Show what is in a build, how it was made and checked, and the template's history."""
    recorded = open_registry(project)
    name, within = split(template_called(name, recorded.templates, project), recorded)
    found = find_build(recorded, name, build or within or channel, target=target)
    entry = recorded.entry(name, found.target)
    if sbom:
        from builder.operations.sbom import bill_of_materials

        progress.show_document(bill_of_materials(found))
        return
    channels = entry.get("channels", {})
    if as_json:
        progress.show_json(
            {
                "name": found.name,
                "target": found.target,
                "ref": found.ref,
                **with_measures(found.ref, found.fields),
                "channels": channels,
                "holds": entry.get("holds", {}),
                "builds": sorted(entry.get("builds", {})),
                "history": entry.get("history", []),
            }
        )
        return
    pointing = [key for key, ref in sorted(channels.items()) if ref == found.ref]
    whose = f", channel {' and '.join(pointing)}" if pointing else ""
    progress.show_text(f"{found.name} on {found.target}{whose}: {found.ref}")
    if "revoked" in found.fields:
        told = registry.revocation(found.fields)
        progress.show_text(told.replace("r", "R", 1) if found.revoked else f"To be {told}")
    for key in pointing:
        if hold := hold_of(entry, key):
            progress.show_text(f"Channel {key} is {hold}")
    fields = {k: v for k, v in with_measures(found.ref, found.fields).items() if k not in _REST}
    for line in _lines(fields, "  "):
        progress.show_text(line)
    if others := found.fields.get("other_packages"):
        told = ", ".join(f"{package} {version}" for package, version in others.items())
        source = (
            "the kernel and what shows results"
            if found.is_local
            else "the base image and code service"
        )
        progress.show_text(f"  of {source}: {told}")
    if steps := found.fields.get("steps"):
        progress.show_text(f"  steps on E2B: {len(steps)}")
    _show_builds(entry)


def _show_builds(entry: dict[str, Any]) -> None:
    channels = entry.get("channels", {})
    rows = []
    for ref in history.newest_first(entry):
        fields = entry["builds"][ref]
        state = _state(fields)
        pointing = " ".join(key for key, to in sorted(channels.items()) if to == ref)
        rows.append([str(fields.get("built_at", "-")), state, pointing or "-", ref])
    progress.show_text("builds, newest first:")
    progress.table(["built at", "state", "channels", "ref"], rows)
    if not entry.get("history"):
        return
    progress.show_text("history, newest first:")
    progress.table(
        ["at", "by", "action", "channel", "from", "to", "reason"],
        [
            [
                *(str(event.get(key) or "-") for key in ("at", "by", "action", "channel")),
                _short(event.get("from")),
                _short(event.get("to") or event.get("build")),
                str(event.get("reason") or "-"),
            ]
            for event in entry["history"][::-1]
        ],
    )


def _state(fields: dict[str, Any]) -> str:
    at = registry.revoked_as_of(fields)
    as_of = f"revoked as of {at}" if at else "revoked"
    if registry.revoked_because(fields):
        return as_of
    origin = str(fields.get("origin", "built"))
    return f"{origin}, to be {as_of}" if "revoked" in fields else origin


def _short(ref: Any) -> str:
    """A ref as far as it takes to tell it from others; commands take it like that, too."""
    head, mark, digest = str(ref or "-").partition("@sha256-")
    return f"{head}{mark}{digest[:12]}"


def _lines(value: dict[str, Any], indent: str) -> list[str]:
    """A line a value; what is empty or was not measured is left out."""
    lines = []
    for key, item in value.items():
        if item in (None, {}, []):
            continue
        if isinstance(item, dict):
            lines += [f"{indent}{key}:", *_lines(item, f"{indent}  ")]
        elif isinstance(item, list):
            lines += [f"{indent}{key}:", *(f"{indent}  - {_in_words(one)}" for one in item)]
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
        typer.Argument(metavar="B", help="Another build, a variant's file, or `spec`: A's own."),
    ] = _SPEC,
    target: TargetName = None,
    project: ProjectFolder = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Show how two builds differ, or a build and the spec with its committed lock."""
    from builder.operations import compare

    recorded = open_registry(project)
    sides: list[compare.Side] = []
    name = None
    for asked in (old, new):
        if asked.endswith(".toml"):
            sides.append(_spec_side(Project.find(project), asked))
        elif asked == _SPEC:
            if name is None:
                raise SelectionError(
                    "`spec` means that of the build named before it",
                    hint="name a build first, or a variant's file",
                )
            sides.append(_spec_side(Project.find(project), name))
        else:
            called = template_called(asked, recorded.templates, project)
            name, wanted = split(called, recorded)
            build = find_build(recorded, name, wanted, target=target)
            sides.append(compare.side_of_build(build, with_measures(build.ref, build.fields)))
    found = compare.compare(*sides)
    if as_json:
        progress.show_json(
            {
                "old": sides[0].label,
                "new": sides[1].label,
                "differences": [one.to_json() for one in found],
            }
        )
    elif found:
        progress.table(
            ["in", "what", sides[0].label, sides[1].label],
            [[one.kind, one.what, one.old or "-", one.new or "-"] for one in found],
        )
    elif not quiet:
        progress.show_text(f"no difference between {sides[0].label} and {sides[1].label}")


def _spec_side(place: Project, asked: str) -> Any:
    from builder import plan
    from builder.operations import compare

    request = BuildRequest(names=(asked,), frozen=True)
    prepared = workflow.prepare(request, Context(project=place), workflow.RENDER)
    if len(prepared.variants) > 1:
        names = ", ".join(f"`{variant.name}`" for variant in prepared.variants)
        raise SelectionError(
            f"`{asked}` means several variants: {names}", hint="this command takes one"
        )
    raise_failures(prepared.results)
    (rendered,) = prepared.rendered
    return compare.side_of_spec(rendered, plan.program_of(rendered))


def outdated(
    names: Names = None,
    target: TargetName = None,
    channel: Channel = registry.DEFAULT_CHANNEL,
    max_age: Annotated[
        float, typer.Option("--max-age", metavar="DAYS", min=0, help="Older builds are outdated.")
    ] = 90,
    exit_code: Annotated[bool, typer.Option(help="End with 2 when a template is outdated.")] = True,
    project: ProjectFolder = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Say which templates are outdated: what a rebuild with the latest packages would change."""
    request = BuildRequest(names=names or (), channel=channel)
    with progress.reporting(quiet=quiet, as_json=as_json) as report:
        place = Project.find(project)
        context = Context.choose(place, target, report=report, connected=False)
        prepared = workflow.prepare(request, context, workflow.RENDER)
        found = operations.outdated(prepared, context, max_age_days=max_age)
    if as_json:
        templates = [one.to_json() for one in found]
        progress.show_json({"target": context.target_name, "templates": templates})
    elif not quiet:
        rows = []
        for one in found:
            age = "-" if one.age_days is None else counted(one.age_days, "day")
            first, *others = [str(reason) for reason in one.reasons] or ["nothing would change"]
            state = "outdated" if one.reasons else "held" if one.held else "up to date"
            if one.held:
                others.append(f"channel {channel} is {one.held}")
            rows.append([one.name, state, age, first])
            rows += [["", "", "", reason] for reason in others]
        progress.table(["template", "state", "age", "because"], rows)
        for note in prepared.notes:
            progress.show_text(f"note: {note}")
    raise_failures(prepared.results)
    stale = [f"{one.name} ({one.reasons[0]})" for one in found if one.reasons]
    if exit_code and stale:
        if quiet and not as_json:
            progress.show_message(f"outdated: {', '.join(stale)}")
        raise typer.Exit(SOMETHING_TO_DO)
