"""Put builds back into the registry that a target still has, found by their tags."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from typing import Any

from builder import record, registry, render, verify
from builder.errors import BuildError, RegistryError
from builder.operations.reverify import built_of
from builder.registry import history
from builder.registry.model import Build, Entry, Verified
from builder.registry.tables import explicit
from builder.system import provenance
from builder.system.events import Event, Reporter
from builder.system.logs import Log
from builder.targets.protocol import Opening, Tagged
from builder.verify.checks import inventory
from builder.workflow import Context, Prepared


def rebuild(prepared: Prepared, context: Context) -> list[dict[str, Any]]:
    """Record every build that a channel's tag on the target points at and the registry lacks, and
    move the registry's channels to what other machines have published.

    `prepared` are the current specs: a build with the digest of one is verified again; of any
    other, only what a sandbox reports is recorded. A channel on hold stays, and none moves to a
    revoked build. An unreadable registry is renamed. Return the builds, as plain values. Raise what
    the target raises.
    """
    project, target = context.project, context.connected()
    try:
        recorded = context.registry.now()
    except RegistryError as error:
        _put_aside(project.registry, error, context.report)
        recorded = context.registry.now()
    by = provenance.actor(project.root)
    rendered = {rendering.variant.name: rendering for rendering in prepared.rendered}
    done = []
    for name in sorted({*(variant.name for variant in prepared.variants), *recorded.templates}):
        if target.inventory is None:
            raise BuildError(
                f"`{name}` cannot be put back from this machine, which has no channels",
                hint=f"`template-builder build {name} --target {target.name}` records it again",
            )
        for tagged in target.inventory.tagged(name):
            entry = context.entry(name)
            channels, known = _channels(entry, tagged), entry.builds.get(tagged.ref)
            if not tagged.channels or (known and not channels):
                continue
            with target.claimed(name):
                build = known or _build(context, rendered.get(name), name, tagged)
            change = record.Change(name=name, target=target.name, by=by)
            record.put_back(project.registry, change, tagged.ref, build, channels=channels)
            done.append(
                {"name": name, "target": target.name, "ref": tagged.ref, "channels": channels}
            )
    return done


def _channels(entry: Entry, tagged: Tagged) -> list[str]:
    """Return the channels of `entry` that the build is to get: those that it lacks, and those that
    another machine has moved to the build."""
    known = entry.builds.get(tagged.ref)
    if known and known.is_revoked:
        return []
    published = {*tagged.published} - {*entry.holds}
    return [
        channel
        for channel in tagged.channels
        if not entry.channel(channel).build
        or (channel in published and entry.channels[channel] != tagged.ref)
    ]


def _put_aside(location: str, error: RegistryError, report: Reporter) -> None:
    if registry.is_url(location):
        raise RegistryError(
            f"{error.message}; an unreadable object in a store is not overwritten",
            hint="move it away and run the command again",
        ) from error
    aside = f"{location}.unreadable-{history.now().replace(':', '')}"
    os.replace(location, aside)
    report(Event(kind="warning", text=f"{error.message}; it was moved to {aside}"))


def _build(context: Context, known: render.Rendered | None, name: str, tagged: Tagged) -> Build:
    opener, report = context.connected(), context.report
    build = explicit(
        Build, template_id=tagged.template_id, build_id=tagged.build_id, origin="built"
    )
    build = replace(build, digest=tagged.digest)
    with Log(context.project.state / "logs" / name, target=opener.name, kind="rebuild") as log:
        log.line(f"putting back {tagged.ref}")
        if known and known.digest == tagged.digest:
            fields = build.to_json()
            tag = registry.Record(name=name, target=opener.name, ref=tagged.ref, fields=fields)
            built = replace(built_of(tag, build), warnings=(_NOTE,))
            verified = verify.verify(built, known, opener, report=report, log=log)
            return record.build_of(verified, known, {})
        report(Event(kind="step", variant=name, text=f"asking a sandbox of {tagged.ref}"))
        # It may have no code service; each sandbox runs commands.
        opening = Opening(ref=tagged.ref, name=name, has_code_service=False)
        sandbox = opener.open(opening)
        with contextlib.closing(sandbox):
            packages = inventory(sandbox)
    warnings = (_NOTE, "the spec that it was built from is unknown")
    verified_by = Verified(checks=("a sandbox opens and lists its packages",))
    known_of_it = explicit(Build, packages=packages, verified=verified_by, warnings=warnings)
    return build.updated(known_of_it)


_NOTE = "put back from the target; its build time is unknown"
