"""Commands that read the registry and the logs: resolve, list, logs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from builder import registry
from builder.cli.names import open_registry, registry_in_use, template_called, templates_called
from builder.cli.options import Channel, Name, Names, ProjectFolder, TargetName
from builder.cli.output import Document, Result, Table
from builder.errors import (
    SelectionError,
    UnknownTemplateError,
    did_you_mean,
)
from builder.project import Project
from builder.registry import Ref, history
from builder.registry.model import Build, Entry, Hold
from builder.system import logs as log_files


def resolve(
    name: Name,
    *,
    target: TargetName = None,
    channel: Channel = registry.DEFAULT_CHANNEL,
    project: ProjectFolder = None,
) -> Result:
    """Print the ref that a sandbox of the template is created from.

    Fails if the build is a local one of another machine.
    """
    path = Project.find(project).registry if project else registry_in_use()
    try:
        build = registry.lookup(name, target=target, channel=channel, path=path)
    except UnknownTemplateError:
        called = template_called(name, registry.load(path).names, project)
        if called == name:
            raise
        build = registry.lookup(called, target=target, channel=channel, path=path)
    if build.ref.is_local:
        from builder.targets.local.place import find_build

        find_build(build.ref, name=build.name)
    return Result(
        json={
            "name": build.name,
            "target": build.target,
            "ref": build.ref,
            "template_id": build.template_id,
            "build_id": build.build_id,
        },
        data=[build.ref],
    )


def list_command(names: Names = None, *, project: ProjectFolder = None) -> Result:
    """List the recorded templates, with their targets, channels and builds."""
    recorded = open_registry(project)
    wanted = templates_called(names, recorded, project) if names else set(recorded.templates)
    rows = [
        row
        for name, targets in sorted(recorded.templates.items())
        if name in wanted
        for target, entry in sorted(targets.items())
        for row in _rows(name, target, entry)
    ]
    keys = ["name", "target", "channel", "origin", "built_at", "state", "ref"]
    cells = [
        [str(value or "-") for value in ({**row, "state": _state_cell(row)}[key] for key in keys)]
        for row in rows
    ]
    return Result(
        json=rows, data=[Table(headings=[key.replace("_", " ") for key in keys], rows=cells)]
    )


def _rows(name: str, target: str, entry: Entry) -> Iterator[dict[str, Any]]:
    # Without channels, the newest build stands for the template.
    unpointed = [(None, ref) for ref in history.newest_first(entry)[:1]]
    for channel, ref in sorted(entry.channels.items()) or unpointed:
        build, hold = entry.builds.get(ref), entry.holds.get(channel) if channel else None
        yield {
            "name": name,
            "target": target,
            "channel": channel,
            "ref": ref,
            "origin": build.origin if build else "-",
            "built_at": build and build.built_at,
            "state": _where(ref, build),
            "held": hold.described() if hold else None,
            "revoked": build and build.revoked,
            "revoked_as_of": build and build.revoked_since,
        }


def _state_cell(row: dict[str, Any]) -> str:
    state = str(row["state"])
    if row["revoked"] is not None:
        at = row["revoked_as_of"]
        revocation = f"revoked{f' as of {at}' if at else ''}: {row['revoked']}"
        state = revocation if state == "revoked" else f"{state}, to be {revocation}"
    return f"{state}; {Hold(**row['held'])}" if row["held"] else state


def _where(ref: str, build: Build | None) -> str:
    if build and build.is_revoked:
        return "revoked"
    if not Ref(ref).is_local:
        return "recorded"
    from builder.targets.local import place

    return "here" if place.find(Ref(ref).digest) else "not on this machine"


def logs(
    name: Name,
    *,
    project: Project,
    path_only: Annotated[
        bool, typer.Option("--path", help="Print the path of the log instead.")
    ] = False,
) -> Result:
    """Print the log of a template's newest build."""
    folder = project.state / "logs"
    known = sorted(path.name for path in folder.glob("*")) if folder.is_dir() else []
    name = template_called(name, known, project.root)
    log = log_files.latest(folder / Path(name).name)
    if log is None:
        raise SelectionError(
            f"there is no log of `{name}`; there are logs of: {', '.join(known) or 'nothing'}",
            hint=did_you_mean(name, known) or "`template-builder build` writes one",
        )
    if path_only:
        return Result(data=[str(log)])
    return Result(data=[Document(log.read_text(encoding="utf-8", errors="replace"))])
