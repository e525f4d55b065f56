"""The arguments that commands have in common: one name, one meaning."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, TypedDict

import typer

from builder.errors import SelectionError

# Channels are tags on E2B, and these are the characters of one.
_CHANNEL = re.compile(r"[a-z0-9_.-]{1,128}")
# `default`, the tags of digests, and those by which builds claim a channel.
_BUILD_TAG = re.compile(r"default|sha256-.*|.+\.[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_UUID = re.compile(r"[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}")


def _channel(value: str) -> str:
    if not _CHANNEL.fullmatch(value):
        raise typer.BadParameter(f"{value!r} is not the name of a channel: a-z, 0-9, -, _ and .")
    if _BUILD_TAG.fullmatch(value):
        raise typer.BadParameter(
            f"{value!r} is a tag that builds on E2B carry: choose another name"
        )
    if _UUID.fullmatch(value):
        raise typer.BadParameter(
            f"{value!r} is a UUID, as the ID of a build on E2B: choose another name"
        )
    return value


def _no_secret(value: str | None) -> str | None:
    from builder.spec import secret_in

    if value:  # bytes that are not UTF-8, as of a Latin-1 terminal, become U+FFFD
        value = value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if value and (kind := secret_in(value)):
        raise SelectionError(
            f"--reason holds {kind}, which everybody could read in the history",
            hint="say it without; and make that secret void, if it is known to others",
        )
    return value


Name = Annotated[str, typer.Argument(metavar="NAME", help="The template's name, or its file's.")]
Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="NAME", help="Template names, file stems, paths or globs; all by default."
    ),
]
Build = Annotated[
    str | None,
    typer.Argument(
        metavar="REF",
        help="A build: its ref, build ID or digest, the beginning of one, or a channel.",
    ),
]
ProjectFolder = Annotated[
    Path | None,
    typer.Option("--project", metavar="DIR", help="The project; the nearest one by default."),
]
TargetName = Annotated[
    str | None,
    typer.Option("--target", metavar="T", help="Where: local, e2b, or a configured target."),
]
Channel = Annotated[
    str, typer.Option("--channel", metavar="C", help="The channel.", callback=_channel)
]
Channels = Annotated[
    list[str] | None,
    typer.Option(
        "--channel",
        metavar="C",
        help="This channel alone; with NAME@REF, the channel and the build. May be repeated.",
    ),
]
Reason = Annotated[
    str | None,
    typer.Option("--reason", metavar="TEXT", help="Why, for the history.", callback=_no_secret),
]
RequiredReason = Annotated[
    str,
    typer.Option(
        "--reason", metavar="TEXT", help="Why; who resolves it is told.", callback=_no_secret
    ),
]
Frozen = Annotated[
    bool, typer.Option("--frozen", help="Use the committed locks; fail when they are stale.")
]
Force = Annotated[bool, typer.Option("--force", help="Build although nothing changed.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Nothing but errors, and the data that is asked for.")
]
Json = Annotated[bool, typer.Option("--json", help="JSON for machines on standard output.")]


class ChannelOptions(TypedDict):
    """Which channel is changed, and why."""

    channel: Channel
    target: TargetName
    reason: Reason
