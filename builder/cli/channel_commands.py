"""Commands that move channels: promote, rollback, unhold, adopt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Unpack

import typer

from builder import operations
from builder.cli.names import account_named, recorded_name
from builder.cli.options import Build, Channel, ChannelOptions, Name, Reason, TargetName
from builder.cli.output import Result
from builder.errors import SelectionError
from builder.project import Project
from builder.registry import DEFAULT_CHANNEL
from builder.system.events import Reporter


def promote(
    name: Name,
    build: Build = None,
    *,
    project: Project,
    report: Reporter,
    **options: Unpack[ChannelOptions],
) -> Result:
    """Point a channel at a verified build: REF, or the newest one. Ends a hold of the channel."""
    request = operations.ChannelRequest(name=recorded_name(project, name), **options)
    return _moved(operations.promote(project, request, build, report=report))


def rollback(
    name: Name,
    build: Build = None,
    *,
    steps: Annotated[int, typer.Option(min=1, help="How many builds to go back.")] = 1,
    project: Project,
    report: Reporter,
    **options: Unpack[ChannelOptions],
) -> Result:
    """Point a channel back at an earlier build: the previous one, or REF.

    This puts the channel on hold: new builds are recorded but do not move it until `promote`,
    `build --release` or `unhold`.
    """
    if build is not None and steps != 1:
        raise SelectionError(
            "REF and --steps both say how far to go back", hint="use only one of the two"
        )
    request = operations.ChannelRequest(name=recorded_name(project, name), **options)
    return _moved(operations.rollback(project, request, build, steps=steps, report=report))


def unhold(name: Name, *, project: Project, **options: Unpack[ChannelOptions]) -> Result:
    """End the hold of a channel after a rollback: the next build moves it again."""
    request = operations.ChannelRequest(name=recorded_name(project, name), **options)
    target, hold = operations.unhold(project, request)
    name, channel = request.name, request.channel
    lifted = hold.to_json() if hold else None
    state = f"is no longer on hold (it was {hold})" if hold else "is not on hold"
    return Result(
        json={"name": name, "target": target, "channel": channel, "lifted": lifted},
        text=[f"channel {channel} of {name} on {target} {state}"],
    )


def adopt(
    name: Name,
    ref: Annotated[
        str, typer.Argument(metavar="ID", help="The template's ID on E2B, or ID:BUILD_ID.")
    ],
    *,
    channel: Channel = DEFAULT_CHANNEL,
    target: TargetName = None,
    unchecked: Annotated[
        bool,
        typer.Option(
            "--unchecked", help="Record it without checking that it exists, which needs no key."
        ),
    ] = False,
    reason: Reason = None,
    project: Project,
    report: Reporter,
) -> Result:
    """Record a template on E2B that was built elsewhere."""
    settings = account_named(project, target, report)
    request = operations.ChannelRequest(
        name=recorded_name(project, name), channel=channel, target=settings.name, reason=reason
    )
    return _moved(
        operations.adopt(project, request, ref, settings, unchecked=unchecked, report=report)
    )


def _moved(moved: operations.Moved) -> Result:
    return Result(json=moved.to_json(), text=_lines(moved))


def _lines(moved: operations.Moved) -> Iterator[str]:
    change = moved.change
    channel = f"channel {change.channel} of {change.name} on {change.target}"
    if moved.before == moved.ref:
        yield f"{channel} already points at {moved.ref}"
    else:
        yield f"{channel}: {moved.before or 'nothing'} → {moved.ref}"
    if moved.held:
        yield (
            f"it is on hold: builds do not move it until `template-builder unhold {change.name}"
            f" --channel {change.channel} --target {change.target}`, `build --release` or `promote`"
        )
    for ref in moved.passed_over:
        yield f"skipped, because it is revoked or gone: {ref}"
    if moved.note:
        yield f"note: {moved.note}"
