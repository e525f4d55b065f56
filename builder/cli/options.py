"""Arguments and options that commands share, with the same name and meaning everywhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, TypedDict

import typer

from builder.errors import SelectionError

# Channels are tags on E2B; these are the characters that E2B accepts.
_CHANNEL = re.compile(r"[a-z0-9_.-]{1,128}")
# `default`, tags of digests, and the tags by which builds claim a channel.
_BUILD_TAG = re.compile(r"default|sha256-.*|.+\.[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_UUID = re.compile(r"[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}")


def _channel(value: str) -> str:
    if not _CHANNEL.fullmatch(value):
        raise typer.BadParameter(f"{value!r} is not a channel name: use a-z, 0-9, -, _ and .")
    if _BUILD_TAG.fullmatch(value):
        raise typer.BadParameter(f"{value!r} is reserved for builds on E2B: choose another name")
    if _UUID.fullmatch(value):
        raise typer.BadParameter(
            f"{value!r} is a UUID, like the ID of a build on E2B: choose another name"
        )
    return value


def _no_secret(value: str | None) -> str | None:
    from builder.spec import secret_in

    if value:  # bytes that are not UTF-8, such as those of a Latin-1 terminal, become U+FFFD
        value = value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if value and (kind := secret_in(value)):
        raise SelectionError(
            f"--reason contains {kind}, which everyone could read in the history",
            hint="leave it out, and revoke that secret if others may have seen it",
        )
    return value


Name = Annotated[
    str, typer.Argument(metavar="NAME", help="The template, by its name or its spec's file name.")
]
Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="NAME", help="Template names, spec files or globs; all templates by default."
    ),
]
Build = Annotated[
    str | None,
    typer.Argument(
        metavar="REF",
        help="A build, by ref, build ID or digest, or the start of one; or a channel.",
    ),
]
ProjectFolder = Annotated[
    Path | None,
    typer.Option("--project", metavar="DIR", help="The project; by default the nearest one."),
]
TargetName = Annotated[
    str | None,
    typer.Option(
        "--target", metavar="T", help="The target: local, e2b, or one from pyproject.toml."
    ),
]
Channel = Annotated[
    str, typer.Option("--channel", metavar="C", help="The channel.", callback=_channel)
]
Channels = Annotated[
    list[str] | None,
    typer.Option(
        "--channel",
        metavar="C",
        help="Remove only this channel; with NAME@REF, the build too. May be repeated.",
    ),
]
Reason = Annotated[
    str | None,
    typer.Option("--reason", metavar="TEXT", help="Why; kept in the history.", callback=_no_secret),
]
RequiredReason = Annotated[
    str,
    typer.Option(
        "--reason",
        metavar="TEXT",
        help="Why; shown to anyone who resolves it.",
        callback=_no_secret,
    ),
]
Frozen = Annotated[
    bool, typer.Option("--frozen", help="Use the committed locks; fail if they are stale.")
]
Force = Annotated[bool, typer.Option("--force", help="Build even if nothing changed.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print only errors and the requested data.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON to standard output.")]


class ChannelOptions(TypedDict):
    """The channel to change, and why."""

    channel: Channel
    target: TargetName
    reason: Reason
