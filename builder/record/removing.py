"""Remove builds and channels from the registry; their history stays."""

from __future__ import annotations

import os
from dataclasses import dataclass

from builder.errors import SelectionError, UnknownBuildError, UnknownChannelError
from builder.record.channels import lift
from builder.record.revoking import is_revoked_itself
from builder.record.store import update
from builder.registry import history
from builder.registry.model import Contents, Entry


@dataclass(frozen=True, kw_only=True, slots=True)
class Removal:
    """The refs of builds, and the channels, to remove from a template on a target."""

    name: str
    target: str
    builds: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()


def remove(
    location: str | os.PathLike[str], removal: Removal, *, by: str, reason: str | None = None
) -> None:
    """Remove channels, and the records of builds, of a template on a target.

    Raise `UnknownBuildError` or `UnknownChannelError` if one does not exist, and what
    `check_removable` and `update` raise; then nothing was removed.
    """
    name, target = removal.name, removal.target

    def change(contents: Contents) -> None:
        entry = contents.entry(name, target)
        for channel in removal.channels:
            if channel not in entry.channels:
                raise UnknownChannelError(
                    f"template `{name}` has no channel `{channel}` on target `{target}`"
                )
        for ref in removal.builds:
            if ref not in entry.builds:
                raise UnknownBuildError(f"`{name}` has no build `{ref}` on `{target}`")
        check_removable(entry, removal)
        for channel in removal.channels:
            lift(entry, channel)
            history.append(entry, "remove", by, channel=channel, to=None, reason=reason)
        for ref in removal.builds:
            del entry.builds[ref]
            history.append(entry, "remove", by, build=ref, reason=reason)

    update(location, change)


def check_removable(entry: Entry, removal: Removal) -> None:
    """Raise `SelectionError` if a remaining channel points at one of the builds, or one is revoked
    itself: it could be built again, and nothing would say that it was revoked.
    """
    name, target = removal.name, removal.target
    pointing = [
        channel
        for channel, ref in sorted(entry.channels.items())
        if ref in removal.builds and channel not in removal.channels
    ]
    if pointing:
        named = " and ".join(f"`{channel}`" for channel in pointing)
        options = " ".join(f"--channel {channel}" for channel in pointing)
        raise SelectionError(
            f"channel {named} of `{name}` on `{target}` points at a build to be removed",
            hint=f"`template-builder remove {name} {options} --target {target}` removes the channel"
            " first",
        )
    for ref in removal.builds:
        build = entry.builds[ref]
        if is_revoked_itself(build):
            raise SelectionError(
                f"build `{ref}` of `{name}` on `{target}` is {build.revocation};"
                " without its record, the same build could be made and used again",
                hint="`template-builder gc` frees its space; if it may be used again:"
                f" `template-builder restore {name} {ref} --target {target}`",
            )
