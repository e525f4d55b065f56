"""Commands that take builds out of use and back: revoke, restore."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, TypedDict, Unpack

import typer

from builder import record, workflow
from builder.cli.names import recorded_name
from builder.cli.options import Build, Reason, RequiredReason, TargetName
from builder.cli.output import Result
from builder.errors import SelectionError
from builder.project import Project
from builder.registry import history
from builder.registry.identity import utc
from builder.registry.references import find_build
from builder.system import provenance

MaybeName = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME", help="The template, by its name or its spec's file name; with a REF."
    ),
]
Package = Annotated[
    list[str] | None,
    typer.Option("--package", metavar="P", help="Every build with a package: 'torch<2.14'."),
]
Base = Annotated[
    list[str] | None,
    typer.Option("--base", metavar="DIGEST", help="Every build on a base image: sha256:…"),
]
Stage = Annotated[
    list[str] | None,
    typer.Option("--stage", metavar="S", help="Every build with a parent stage: _torch@sha256:…"),
]


class SubjectOptions(TypedDict):
    """What builds are revoked or restored for."""

    package: Package
    base: Base
    stage: Stage
    target: TargetName


def revoke(
    name: MaybeName = None,
    build: Build = None,
    *,
    reason: RequiredReason,
    at: Annotated[
        str | None,
        typer.Option(
            "--at",
            metavar="TIME",
            help="When it takes effect, such as 2026-12-01T12:00:00Z; by default now.",
        ),
    ] = None,
    project: Project,
    **options: Unpack[SubjectOptions],
) -> Result:
    """Take a build out of use, or every build with a package, base image or stage.

    A revoked build no longer resolves.
    """
    if not reason.strip():
        raise SelectionError("--reason is empty", hint="say why: anyone who resolves it sees it")
    by, moment = provenance.actor(project.root), _time(at) if at else None
    rows: list[dict[str, Any]] = []
    contained_nowhere: list[str] = []
    for subject in _subjects(project, name, build, options):
        revoked = record.revoke(project.registry, subject, reason=reason, by=by, at=moment)
        keys = ("name", "target", "ref", "as_of")
        rows += [dict(zip(keys, values, strict=True)) for values in revoked]
        if not revoked:
            contained_nowhere.append(f"no build contains {subject}; builds with it are now refused")
    channels = _channels_on(project, rows)
    return Result(
        json={"at": moment, "builds": rows, "channels": channels},
        text=[*contained_nowhere, *_revoked_lines(rows, channels, moment)],
    )


def _revoked_lines(
    rows: Sequence[dict[str, Any]], channels: Sequence[dict[str, str]], moment: str | None
) -> Iterator[str]:
    for row in rows:
        yield f"revoked as of {row['as_of']}: {row['ref']} ({row['name']} on {row['target']})"
        if moment and row["as_of"] != moment:
            yield (
                "note: it was already revoked, which stays in effect until"
                f" `template-builder restore`, not {moment}"
            )
    as_of = {(row["name"], row["target"], row["ref"]): row["as_of"] for row in rows}
    for channel in channels:
        later = as_of[channel["name"], channel["target"], channel["ref"]] > history.now()
        yield (
            f"channel {channel['channel']} of {channel['name']} on {channel['target']} points at"
            f" it, and {'will fail' if later else 'fails'}; move it with `template-builder"
            f" rollback {channel['name']} --channel {channel['channel']} --target"
            f" {channel['target']}` or a new build"
        )


def restore(
    name: MaybeName = None,
    build: Build = None,
    *,
    reason: Reason = None,
    project: Project,
    **options: Unpack[SubjectOptions],
) -> Result:
    """Undo `revoke` of a build, package, base image or stage."""
    by = provenance.actor(project.root)
    keys = ("name", "target", "ref", "still_revoked")
    rows = [
        dict(zip(keys, values, strict=True))
        for subject in _subjects(project, name, build, options)
        for values in record.restore(project.registry, subject, reason=reason, by=by)
    ]
    lines = [
        f"restored: {row['ref']} ({row['name']} on {row['target']})"
        + (f", but still revoked: {row['still_revoked']}" if row["still_revoked"] else "")
        for row in rows
    ]
    return Result(json={"builds": rows}, text=lines or ["restored; no build contains it"])


def _subjects(
    project: Project, name: str | None, build: str | None, options: SubjectOptions
) -> list[record.Content | tuple[str, str, str]]:
    """Return what to revoke or restore: contents of builds, or one build."""
    parts = {"package": options["package"], "base": options["base"], "stage": options["stage"]}
    contents = [
        record.Content.parse(kind, value)
        for kind, values in parts.items()
        for value in values or ()
    ]
    if bool(contents) == bool(name):
        raise SelectionError(
            "a build and contents of builds are both named" if name else "no build is named",
            hint="use NAME REF, or --package, --base or --stage",
        )
    if name is None:
        return list(contents)
    if build is None:
        raise SelectionError(
            f"which build of `{name}`?",
            hint=f"`template-builder show {name}` lists its builds; a channel stands for the build"
            " that it points at",
        )
    recorded = workflow.read_registry(project)
    subject = find_build(recorded, recorded_name(project, name), build, target=options["target"])
    return [(subject.name, subject.target, subject.ref)]


def _channels_on(project: Project, rows: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    templates = workflow.read_registry(project).templates
    return [
        {"name": row["name"], "target": row["target"], "channel": channel, "ref": ref}
        for row in rows
        for channel, ref in templates[row["name"]][row["target"]].channels.items()
        if ref == row["ref"]
    ]


def _time(text: str) -> str:
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise SelectionError(
            f"{text!r} is not a time", hint="use the form 2026-12-01T12:00:00Z or 2026-12-01"
        ) from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    try:
        return utc(moment.astimezone(dt.UTC).timestamp())
    except (OverflowError, ValueError) as error:
        raise SelectionError(f"{text!r} is out of the range of times") from error
