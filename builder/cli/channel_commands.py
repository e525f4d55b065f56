"""Commands that change what names lead to: promote, rollback, unhold, revoke, restore, adopt."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any

import typer

from builder import operations, record, workflow
from builder.cli import progress
from builder.cli.names import template_called
from builder.cli.options import Channel, Json, ProjectFolder, Quiet, TargetName
from builder.errors import SelectionError
from builder.project import Project
from builder.registry import DEFAULT_CHANNEL, history
from builder.registry.references import find_build
from builder.spec import secret_in
from builder.system import provenance
from builder.system.events import Event
from builder.targets.adapters import choose_account

__all__ = ["register"]

Name = Annotated[str, typer.Argument(metavar="NAME", help="The template's name, or its file's.")]
MaybeName = Annotated[
    str | None,
    typer.Argument(metavar="NAME", help="The template's name, or its file's, with a REF."),
]
Build = Annotated[
    str | None,
    typer.Argument(
        metavar="REF",
        help="A build: its ref, build ID or digest, the beginning of one, or a channel.",
    ),
]


def _no_secret(value: str | None) -> str | None:
    if value:  # bytes that are not UTF-8, as of a Latin-1 terminal, become U+FFFD
        value = value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if value and (kind := secret_in(value)):
        raise SelectionError(
            f"--reason holds {kind}, which everybody could read in the history",
            hint="say it without; and make that secret void, if it is known to others",
        )
    return value


Reason = Annotated[
    str | None,
    typer.Option("--reason", metavar="TEXT", help="Why, for the history.", callback=_no_secret),
]
Package = Annotated[
    list[str] | None,
    typer.Option(
        "--package", metavar="P", help="Every build with it: torch==2.14.0, 'torch<2.14'."
    ),
]
Base = Annotated[
    list[str] | None,
    typer.Option("--base", metavar="DIGEST", help="Every build on this base image: sha256:…"),
]
Stage = Annotated[
    list[str] | None,
    typer.Option(
        "--stage", metavar="S", help="Every build with this parent stage: _torch@sha256:…"
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the program."""
    for command in (promote, rollback, unhold, revoke, restore, adopt):
        app.command()(command)


def promote(
    name: Name,
    build: Build = None,
    channel: Channel = DEFAULT_CHANNEL,
    target: TargetName = None,
    reason: Reason = None,
    project: ProjectFolder = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Point a channel at a verified build: REF, or the newest one. Lifts a hold on the channel."""
    place = Project.find(project)
    name = _called(place, name)
    with progress.reporting(quiet=quiet, as_json=as_json) as report:
        moved = operations.promote(
            place, name, build, channel=channel, target=target, reason=reason, report=report
        )
    _show_moved(moved, quiet=quiet, as_json=as_json)


def rollback(
    name: Name,
    build: Build = None,
    steps: Annotated[int, typer.Option(min=1, help="How many builds to go back.")] = 1,
    channel: Channel = DEFAULT_CHANNEL,
    target: TargetName = None,
    reason: Reason = None,
    project: ProjectFolder = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Point a channel at a build that it pointed at before: one step back, more, or to REF.

    That puts the channel on hold: builds are recorded and do not move it, until `promote`,
    `build --release` or `unhold`.
    """
    if build is not None and steps != 1:
        raise SelectionError("REF and --steps both say how far to go back", hint="name one of them")
    place = Project.find(project)
    name = _called(place, name)
    with progress.reporting(quiet=quiet, as_json=as_json) as report:
        moved = operations.rollback(
            place,
            name,
            build,
            steps=steps,
            channel=channel,
            target=target,
            reason=reason,
            report=report,
        )
    _show_moved(moved, quiet=quiet, as_json=as_json)


def unhold(
    name: Name,
    channel: Channel = DEFAULT_CHANNEL,
    target: TargetName = None,
    reason: Reason = None,
    project: ProjectFolder = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Let builds move a channel again after a rollback; it stays where it is until the next one."""
    place = Project.find(project)
    name = _called(place, name)
    target, hold = operations.unhold(place, name, channel=channel, target=target, reason=reason)
    if as_json:
        lifted = hold.to_json() if hold else None
        progress.show_json({"name": name, "target": target, "channel": channel, "lifted": lifted})
    elif not quiet:
        told = f"is no longer on hold (it was {hold})" if hold else "is not on hold"
        progress.show_text(f"channel {channel} of {name} on {target} {told}")


def adopt(
    name: Name,
    ref: Annotated[
        str, typer.Argument(metavar="ID", help="The template's ID on E2B, or ID:BUILD_ID.")
    ],
    channel: Channel = DEFAULT_CHANNEL,
    target: Annotated[
        str | None, typer.Option("--target", metavar="T", help="Whose template it is: e2b.")
    ] = None,
    unchecked: Annotated[
        bool,
        typer.Option("--unchecked", help="Record it without looking for it, which needs no key."),
    ] = False,
    reason: Reason = None,
    project: ProjectFolder = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Record a template that was not built here, after a look for it on E2B."""
    place = Project.find(project)
    name = _called(place, name)
    settings, why = choose_account(place, target)
    with progress.reporting(quiet=quiet, as_json=as_json) as report:
        if why:
            report(Event(kind="note", text=why))
        moved = operations.adopt(
            place,
            name,
            ref,
            settings,
            channel=channel,
            unchecked=unchecked,
            reason=reason,
            report=report,
        )
    _show_moved(moved, quiet=quiet, as_json=as_json)


def _show_moved(moved: operations.Moved, *, quiet: bool, as_json: bool) -> None:
    if as_json:
        progress.show_json(moved.to_json())
    if as_json or quiet:
        return
    whose = f"channel {moved.channel} of {moved.name} on {moved.target}"
    if moved.before == moved.ref:
        progress.show_text(f"{whose} points at {moved.ref} already")
    else:
        progress.show_text(f"{whose}: {moved.before or 'nothing'} → {moved.ref}")
    if moved.held:
        progress.show_text(
            f"it is on hold: builds do not move it until `template-builder unhold {moved.name}"
            f" --channel {moved.channel}`, `build --release` or `promote`"
        )
    for ref in moved.passed_over:
        progress.show_text(f"passed over, since it is revoked or gone: {ref}")
    if moved.note:
        progress.show_text(f"note: {moved.note}")


def revoke(
    reason: Annotated[
        str,
        typer.Option(
            "--reason", metavar="TEXT", help="Why; who resolves it is told.", callback=_no_secret
        ),
    ],
    name: MaybeName = None,
    build: Build = None,
    package: Package = None,
    base: Base = None,
    stage: Stage = None,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="TIME", help="From then on: 2026-12-01T12:00:00Z; at once."),
    ] = None,
    target: TargetName = None,
    project: ProjectFolder = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Take a build out of use, or every build that contains something: it resolves no more."""
    if not reason.strip():
        raise SelectionError("--reason is empty", hint="say why: whoever resolves it is told")
    place = Project.find(project)
    by, moment = provenance.actor(place.root), _time(at) if at else None
    rows: list[dict[str, Any]] = []
    for what in _subjects(place, name, build, target, package, base, stage):
        revoked = record.revoke(place.registry, what, reason=reason, by=by, at=moment)
        keys = ("name", "target", "ref", "as_of")
        rows += [dict(zip(keys, one, strict=True)) for one in revoked]
        if not revoked and not as_json and not quiet:
            progress.show_text(f"no build contains {what}; none will be made that does")
    channels = _channels_on(place, rows)
    if as_json:
        progress.show_json({"at": moment, "builds": rows, "channels": channels})
        return
    if quiet:
        return
    for row in rows:
        progress.show_text(
            f"revoked as of {row['as_of']}: {row['ref']} ({row['name']} on {row['target']})"
        )
        if moment and row["as_of"] != moment:
            progress.show_text(
                f"note: it was revoked before: that stands until `template-builder restore`,"
                f" not {moment}"
            )
    as_of = {(row["name"], row["target"], row["ref"]): row["as_of"] for row in rows}
    for one in channels:
        later = as_of[one["name"], one["target"], one["ref"]] > history.now()
        progress.show_text(
            f"channel {one['channel']} of {one['name']} on {one['target']} points at it, and"
            f" {'will fail' if later else 'fails'}: `template-builder"
            f" rollback {one['name']} --channel {one['channel']}` or a new build helps"
        )


def restore(
    name: MaybeName = None,
    build: Build = None,
    package: Package = None,
    base: Base = None,
    stage: Stage = None,
    reason: Reason = None,
    target: TargetName = None,
    project: ProjectFolder = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Undo `revoke`, named in the same way."""
    place = Project.find(project)
    by = provenance.actor(place.root)
    rows: list[dict[str, str | None]] = []
    for what in _subjects(place, name, build, target, package, base, stage):
        for whose, where, ref, still in record.restore(place.registry, what, reason=reason, by=by):
            rows.append({"name": whose, "target": where, "ref": ref, "still_revoked": still})
    if as_json:
        progress.show_json({"builds": rows})
    elif not quiet:
        for row in rows:
            still = f", but still revoked: {row['still_revoked']}" if row["still_revoked"] else ""
            progress.show_text(f"restored: {row['ref']} ({row['name']} on {row['target']}){still}")
        if not rows:
            progress.show_text("restored; no build contains it")


def _subjects(
    place: Project,
    name: str | None,
    build: str | None,
    target: str | None,
    package: list[str] | None,
    base: list[str] | None,
    stage: list[str] | None,
) -> list[record.Content | tuple[str, str, str]]:
    kinds = (("package", package), ("base", base), ("stage", stage))
    contents = [
        record.Content.parse(kind, value) for kind, values in kinds for value in values or ()
    ]
    if bool(contents) == bool(name):
        raise SelectionError(
            "name a build, or what builds contain, not both" if name else "nothing is named",
            hint="NAME REF, or --package, --base or --stage",
        )
    if name is None:
        return list(contents)
    if build is None:
        raise SelectionError(
            f"which build of `{name}`?",
            hint=f"`template-builder show {name}` tells its builds; a channel's name means the one"
            " that it points at",
        )
    found = find_build(workflow.read_registry(place), _called(place, name), build, target=target)
    return [(found.name, found.target, found.ref)]


def _called(place: Project, name: str) -> str:
    return template_called(name, workflow.read_registry(place).templates, place.root)


def _channels_on(place: Project, rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    templates = workflow.read_registry(place).templates
    return [
        {"name": row["name"], "target": row["target"], "channel": channel, "ref": ref}
        for row in rows
        for channel, ref in templates[row["name"]][row["target"]].get("channels", {}).items()
        if ref == row["ref"]
    ]


def _time(text: str) -> str:
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise SelectionError(
            f"{text!r} is not a time", hint="for instance 2026-12-01T12:00:00Z, or 2026-12-01"
        ) from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    try:
        return moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError) as error:
        raise SelectionError(f"{text!r} is out of the range of times") from error
