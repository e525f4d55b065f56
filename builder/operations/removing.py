"""Remove a template, a build or a channel from the registry, and from its target's tags."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from builder import record
from builder.errors import TargetUnavailableError, TemplateError
from builder.project import Project, target_called
from builder.registry.references import find_build
from builder.system import provenance
from builder.system.events import Reporter
from builder.targets.adapters import connect
from builder.workflow import read_registry


def removal_of(
    project: Project,
    name: str,
    wanted: str | None,
    *,
    channels: Sequence[str],
    target: str | None,
) -> record.Removal:
    """Return what to remove: the build `wanted`, only `channels`, or, without either, all builds.

    Raise the `LookupError`s of the registry, and `SelectionError` for what is still needed.
    """
    recorded = read_registry(project)
    if wanted is not None:
        build = find_build(recorded, name, wanted, target=target)
        target, refs = build.target, [str(build.ref)]
    else:
        target = recorded.target_of(name, target)
        refs = [] if channels else sorted(recorded.entry(name, target).builds)
    removal = record.Removal(
        name=name, target=target, builds=tuple(refs), channels=tuple(dict.fromkeys(channels))
    )
    record.check_removable(recorded.entry(name, target), removal)
    return removal


def remove(
    project: Project, removal: record.Removal, *, reason: str | None, report: Reporter
) -> str | None:
    """Remove it; return a note about what is left on the target, if anything.

    Raise what `record.remove` raises; then nothing was removed.
    """
    name = removal.name
    entry = read_registry(project).entry(name, removal.target)
    # Adopted templates belong to somebody else, and so do their tags.
    records = map(entry.builds.get, removal.builds)
    builds = [build for build in records if build and build.origin == "built"]
    channels = {
        channel: build
        for channel in removal.channels
        if (build := entry.channel(channel).build) and build.origin == "built"
    }
    inventory, note = None, None
    with contextlib.ExitStack() as stack:
        if builds or channels:
            settings = target_called(removal.target, project.targets)
            try:
                target = connect(settings, project, report=report)
            except TargetUnavailableError as error:
                note = _left(removal, error)
            else:
                stack.enter_context(target.claimed(name))
                inventory = target.inventory
        by = provenance.actor(project.root)
        record.remove(project.registry, removal, by=by, reason=reason)
        if inventory:
            # Last, since it cannot be undone: a build on E2B without a tag is out of reach.
            try:
                note = inventory.withdraw(name, builds, channels=channels)
            except TemplateError as error:
                note = _left(removal, error)
    return note


def _left(removal: record.Removal, error: TemplateError) -> str:
    return f"its tags on {removal.target} are left as they are: {error.message}"
