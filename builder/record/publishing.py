"""Changes of the registry that a target follows: either both change, or neither does."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from typing import TypeVar

from builder.errors import TemplateError
from builder.record.store import update
from builder.registry.model import Build, Contents
from builder.targets.protocol import Publication, Publisher

_T = TypeVar("_T")

# `Publish` points a target's own channel (None: no channel) at a build. It returns a function that
# undoes the move, or None if nothing was moved.
TakeBack = Callable[[], None]
Publish = Callable[[Build, "str | None"], "TakeBack | None"]


def following(publisher: Publisher, name: str, *, over: Collection[str] | None) -> Publish:
    """Return the `Publish` of a target for template `name`; `over` are newer builds that may lose
    the channel, None means all."""

    def follow(build: Build, channel: str | None) -> TakeBack | None:
        return publisher.publish(Publication(name=name, build=build, channel=channel, over=over))

    return follow


def update_published(
    location: str | os.PathLike[str],
    change: Callable[[Contents, Publish], _T],
    publish: Publish | None,
) -> _T:
    """Run `update` with a `change` that publishes; if the registry cannot be written afterwards,
    undo the move on the target."""
    take_back: list[TakeBack] = []

    def publishing(build: Build, channel: str | None) -> None:
        undo = publish(build, channel) if publish else None
        if undo:
            take_back.append(undo)

    try:
        return update(location, lambda contents: change(contents, publishing))
    except BaseException as error:
        failures = []
        for undo in reversed(take_back):  # several if other writers were faster
            try:
                undo()
            except TemplateError as failure:
                failures.append(failure.message)
        if isinstance(error, TemplateError) and take_back:
            done = "; ".join(failures) or "the target was moved back"
            error.message = f"{error.message}; nothing was recorded: {done}"
        raise
