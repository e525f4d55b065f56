"""Taking out of the registry what nobody needs; its history stays."""

from __future__ import annotations

import os
from collections.abc import Sequence

from builder.errors import SelectionError, UnknownBuildError, UnknownChannelError
from builder.record.channels import lift
from builder.record.revoking import is_revoked_itself
from builder.record.store import update
from builder.registry import history
from builder.registry.model import Contents, Entry


def remove(
    location: str | os.PathLike[str],
    *,
    name: str,
    target: str,
    builds: Sequence[str],
    channels: Sequence[str],
    by: str,
    reason: str | None = None,
) -> None:
    """Remove `channels` of a template on a target, and the records of `builds`.

    Raises `SelectionError` where another channel points at one of the builds, or one is revoked
    itself: the same could be built again, and nothing would say so. Raises `UnknownBuildError` and
    `UnknownChannelError` for what is not there, and what `update` raises; then nothing was removed.
    """

    def change(contents: Contents) -> None:
        entry = contents.entry(name, target)
        for channel in channels:
            if channel not in entry.channels:
                raise UnknownChannelError(
                    f"template `{name}` has no channel `{channel}` on target `{target}`"
                )
        for ref in builds:
            if ref not in entry.builds:
                raise UnknownBuildError(f"`{name}` has no build `{ref}` on `{target}`")
        check_removable(entry, name, target, builds, channels)
        for channel in channels:
            lift(entry, channel)
            history.append(entry, "remove", by, channel=channel, to=None, reason=reason)
        for ref in builds:
            del entry.builds[ref]
            history.append(entry, "remove", by, build=ref, reason=reason)

    update(location, change)


def check_removable(
    entry: Entry,
    name: str,
    target: str,
    builds: Sequence[str],
    channels: Sequence[str],
) -> None:
    """Raise `SelectionError` where a channel that stays points at one of `builds`, or one of them
    is revoked itself. `entry` is what is recorded of template `name` on `target`.
    """
    pointing = [
        c for c, ref in sorted(entry.channels.items()) if ref in builds and c not in channels
    ]
    if pointing:
        named = " and ".join(f"`{channel}`" for channel in pointing)
        options = " ".join(f"--channel {channel}" for channel in pointing)
        raise SelectionError(
            f"channel {named} of `{name}` on `{target}` points at what is to be removed",
            hint=f"`template-builder remove {name} {options} --target {target}` removes the channel"
            " first",
        )
    for ref in builds:
        build = entry.builds[ref]
        if is_revoked_itself(build):
            raise SelectionError(
                f"build `{ref}` of `{name}` on `{target}` is {build.revocation};"
                " without its record, the same build could be made and used again",
                hint="`template-builder gc` frees what it takes up; if it may be used again:"
                f" `template-builder restore {name} {ref} --target {target}`",
            )
