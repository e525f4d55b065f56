"""The command that says what sandboxes were used and cost: usage."""

from __future__ import annotations

import datetime as dt
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from builder.cli.options import ProjectFolder
from builder.cli.output import Result, Table
from builder.errors import SelectionError
from builder.project import Project

Price = Annotated[
    float | None,
    typer.Option(metavar="USD", min=0, max=1e6, help="US dollars; E2B's list price by default."),
]


def usage(
    *,
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
    vcpu_hour: Price = None,
    gib_hour: Price = None,
    project: ProjectFolder = None,
) -> Result:
    """Show what sandboxes were used and cost, by template, as E2B's webhooks have told."""
    from builder.webhooks.ledger import GIB_SECOND, VCPU_SECOND, Ledger

    path = ledger or _ledger(project)
    if not path.exists():
        raise SelectionError(
            f"there is no ledger at {path}",
            hint="a receiver of webhooks writes it: docs/webhooks.md; or name one with --ledger",
        )
    since = dt.datetime.now(dt.UTC) - dt.timedelta(days=days) if days is not None else None
    templates = Ledger(path).usage(
        since=since,
        vcpu_second=VCPU_SECOND if vcpu_hour is None else vcpu_hour / 3600,
        gib_second=GIB_SECOND if gib_hour is None else gib_hour / 3600,
    )
    rows = [
        [
            used.template,
            str(used.sandboxes),
            str(used.running),
            str(used.peak),
            f"{used.minutes:.1f}",
            f"{used.cost:.4f}" + (f" + {used.unpriced} of unknown size" if used.unpriced else ""),
        ]
        for used in templates
    ]
    headings = ["template", "sandboxes", "running", "peak", "minutes", "US dollars"]
    return Result(
        json={"ledger": str(path), "templates": [asdict(used) for used in templates]},
        data=[Table(headings=headings, rows=rows)],
    )


def _ledger(project: Path | None) -> Path:
    here = Path(".builder", "usage.sqlite").absolute()
    if here.exists() or not (project or Project.nearest()):
        return here
    return Project.find(project).state / "usage.sqlite"
