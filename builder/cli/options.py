"""The arguments that commands have in common."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "Channel",
    "Frozen",
    "Json",
    "Names",
    "ProjectFolder",
    "Quiet",
    "TargetName",
    "channel_name",
]

# Channels are tags on E2B, and these are the characters of one.
_CHANNEL = re.compile(r"[a-z0-9_.-]{1,128}")
# `default`, the tags of digests, and those by which builds claim a channel.
_BUILD_TAG = re.compile(r"default|sha256-.*|.+\.[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_UUID = re.compile(r"[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}")

Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="NAME", help="Template names, file stems, paths or globs; all by default."
    ),
]
ProjectFolder = Annotated[
    Path | None,
    typer.Option("--project", metavar="DIR", help="The project; the nearest one by default."),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Nothing but errors, and the data that is asked for.")
]
Json = Annotated[bool, typer.Option("--json", help="JSON for machines on standard output.")]
Frozen = Annotated[
    bool, typer.Option("--frozen", help="Use the committed locks; fail when they are stale.")
]
TargetName = Annotated[
    str | None,
    typer.Option("--target", metavar="T", help="Where: local, e2b, or a configured target."),
]


def channel_name(value: str) -> str:
    """Check the name of a channel. Raises `typer.BadParameter`."""
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


Channel = Annotated[
    str, typer.Option("--channel", metavar="C", help="The channel.", callback=channel_name)
]
