"""Commands that look at what is recorded: resolve, list, logs, usage."""

from __future__ import annotations

import datetime as dt
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from builder import registry, workflow
from builder.cli import progress
from builder.cli.names import template_called, templates_called
from builder.cli.options import Channel, Json, Names, ProjectFolder, Quiet, TargetName
from builder.errors import (
    SelectionError,
    UnknownTemplateError,
    did_you_mean,
)
from builder.project import Project
from builder.registry import history
from builder.registry.holds import Hold, hold_of
from builder.system import logs as log_files

__all__ = ["open_registry", "register"]

Name = Annotated[str, typer.Argument(metavar="NAME", help="The template's name, or its file's.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the program."""
    for command in (resolve, list_command, logs, usage):
        app.command(name=command.__name__.removesuffix("_command"))(command)


def open_registry(project: Path | None) -> registry.Registry:
    """The registry in use, or that of a project. Raises `RegistryError`."""
    if project:
        return workflow.read_registry(Project.find(project))
    return registry.load(_found()).checked()


def _found() -> str:
    """The registry in use; said to be the package's own where there is no nearer one."""
    path = registry.find()
    shipped = Path(registry.__file__).with_name("shipped.json")
    if Path(path) == shipped and not os.environ.get("TEMPLATE_REGISTRY"):
        progress.show_message(f"note: no registry.json here or above; the package's own: {path}")
    return path


def resolve(
    name: Name,
    target: TargetName = None,
    channel: Channel = registry.DEFAULT_CHANNEL,
    project: ProjectFolder = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Print what a sandbox of the template is created from.

    Fails for a build of a local target that another machine has made.
    """
    place = Project.find(project).registry if project else _found()
    try:
        found = registry.lookup(name, target=target, channel=channel, path=place)
    except UnknownTemplateError:
        called = template_called(name, registry.load(place).templates, project)
        if called == name:
            raise
        found = registry.lookup(called, target=target, channel=channel, path=place)
    if found.is_local:
        from builder.targets.local.place import find_build

        find_build(found.ref, name=found.name)
    if as_json:
        progress.show_json(
            {
                "name": found.name,
                "target": found.target,
                "ref": found.ref,
                "template_id": found.template_id,
                "build_id": found.build_id,
            }
        )
    else:
        progress.show_text(found.ref)


def list_command(
    names: Names = None, project: ProjectFolder = None, quiet: Quiet = False, as_json: Json = False
) -> None:
    """List the recorded templates: targets, channels, and what they point at."""
    found = open_registry(project)
    wanted = templates_called(names, found, project) if names else set(found.templates)
    rows: list[dict[str, Any]] = []
    for name, targets in sorted(found.templates.items()):
        if name not in wanted:
            continue
        for target, entry in sorted(targets.items()):
            # Builds that no channel points at, the newest of them, are there all the same.
            unpointed = [(None, ref) for ref in history.newest_first(entry)[:1]]
            for channel, ref in sorted(entry.get("channels", {}).items()) or unpointed:
                fields = entry.get("builds", {}).get(ref, {})
                hold = hold_of(entry, channel) if channel else None
                rows.append(
                    {
                        "name": name,
                        "target": target,
                        "channel": channel,
                        "ref": ref,
                        "origin": fields.get("origin", "-"),
                        "built_at": fields.get("built_at"),
                        "state": _where(ref, fields),
                        "held": hold.to_json() if hold else None,
                        "revoked": fields.get("revoked"),
                        "revoked_as_of": registry.revoked_as_of(fields),
                    }
                )
    if as_json:
        progress.show_json(rows)
    else:
        keys = ["name", "target", "channel", "origin", "built_at", "state", "ref"]
        cells = [[str(row[key] or "-") for key in keys] for row in rows]
        for row, line in zip(rows, cells, strict=True):
            line[keys.index("state")] = _state_cell(row)
        progress.table([key.replace("_", " ") for key in keys], cells)


def _state_cell(row: dict[str, Any]) -> str:
    state = str(row["state"])
    if row["revoked"] is not None:
        at = row["revoked_as_of"]
        revocation = f"revoked{f' as of {at}' if at else ''}: {row['revoked']}"
        state = revocation if state == "revoked" else f"{state}, to be {revocation}"
    return f"{state}; {Hold(**row['held'])}" if row["held"] else state


def _where(ref: str, fields: dict[str, Any]) -> str:
    if registry.revoked_because(fields):
        return "revoked"
    if not registry.is_local(ref):
        return "recorded"
    from builder.targets.local import place

    return "here" if place.find(place.digest_of(ref)) else "not on this machine"


def logs(
    name: Name,
    project: ProjectFolder = None,
    quiet: Quiet = False,
    path_only: Annotated[bool, typer.Option("--path", help="Print where the log is.")] = False,
) -> None:
    """Print the log of the newest build attempt of a template."""
    folder = Project.find(project).state / "logs"
    known = sorted(path.name for path in folder.glob("*")) if folder.is_dir() else []
    name = template_called(name, known, project)
    found = log_files.latest(folder / Path(name).name)
    if found is None:
        raise SelectionError(
            f"there is no log of `{name}`; there are logs of: {', '.join(known) or 'nothing'}",
            hint=did_you_mean(name, known) or "a log is written by `template-builder build`",
        )
    if path_only:
        progress.show_text(str(found))
    else:
        progress.show_document(found.read_text(encoding="utf-8", errors="replace"))


def usage(
    ledger: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The file that a receiver of webhooks writes; .builder/usage.sqlite.",
        ),
    ] = None,
    days: Annotated[
        float | None,
        typer.Option(
            metavar="DAYS",
            min=0,
            max=36_500,
            help="Of the last DAYS days alone; of all by default.",
        ),
    ] = None,
    vcpu_hour: Annotated[
        float | None,
        typer.Option(
            metavar="USD", min=0, max=1e6, help="US dollars; E2B's list price by default."
        ),
    ] = None,
    gib_hour: Annotated[
        float | None,
        typer.Option(
            metavar="USD", min=0, max=1e6, help="US dollars; E2B's list price by default."
        ),
    ] = None,
    project: ProjectFolder = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Show what sandboxes were used and cost, by template, as E2B's webhooks have told."""
    from builder.webhooks.ledger import GIB_SECOND, VCPU_SECOND, Ledger

    here = Path(".builder", "usage.sqlite").absolute()
    path = ledger or (here if here.exists() else _state(project) / "usage.sqlite")
    if not path.exists():
        raise SelectionError(
            f"there is no ledger at {path}",
            hint="a receiver of webhooks writes it: docs/webhooks.md; or name one with --ledger",
        )
    since = dt.datetime.now(dt.UTC) - dt.timedelta(days=days) if days is not None else None
    found = Ledger(path).usage(
        since=since,
        vcpu_second=VCPU_SECOND if vcpu_hour is None else vcpu_hour / 3600,
        gib_second=GIB_SECOND if gib_hour is None else gib_hour / 3600,
    )
    if as_json:
        progress.show_json({"ledger": str(path), "templates": [asdict(one) for one in found]})
        return
    progress.table(
        ["template", "sandboxes", "running", "peak", "minutes", "US dollars"],
        [
            [
                one.template,
                str(one.sandboxes),
                str(one.running),
                str(one.peak),
                f"{one.minutes:.1f}",
                f"{one.cost:.4f}" + (f" + {one.unpriced} of unknown size" if one.unpriced else ""),
            ]
            for one in found
        ],
    )


def _state(project: Path | None) -> Path:
    if project or Project.nearest():
        return Project.find(project).state
    return Path(".builder").absolute()
