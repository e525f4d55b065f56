"""The command that shows what sandboxes used and cost: usage."""

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

LedgerFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="The file that a webhook receiver writes; .builder/usage.sqlite."
    ),
]
Days = Annotated[
    float | None,
    typer.Option(
        metavar="DAYS", min=0, max=36_500, help="Count only the last DAYS days; all by default."
    ),
]
Price = Annotated[
    float | None,
    typer.Option(metavar="USD", min=0, max=1e6, help="US dollars; E2B's list price by default."),
]
_HEADINGS = ("template", "sandboxes", "running", "peak", "minutes", "US dollars")


def usage(
    *,
    ledger: LedgerFile = None,
    days: Days = None,
    vcpu_hour: Price = None,
    gib_hour: Price = None,
    project: ProjectFolder = None,
) -> Result:
    """Show what sandboxes on E2B used and cost, by template, as reported by E2B's webhooks."""
    from builder.webhooks.ledger import GIB_SECOND, VCPU_SECOND, Ledger

    path = ledger or _ledger(project)
    if not path.exists():
        raise SelectionError(
            f"there is no ledger at {path}",
            hint="a webhook receiver writes it: docs/webhooks.md; or name one with --ledger",
        )
    templates = Ledger(path).usage(
        since=dt.datetime.now(dt.UTC) - dt.timedelta(days=days) if days is not None else None,
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
    return Result(
        json={"ledger": str(path), "templates": [asdict(used) for used in templates]},
        data=[Table(headings=_HEADINGS, rows=rows)],
    )


def _ledger(project: Path | None) -> Path:
    here = Path(".builder", "usage.sqlite").absolute()
    if here.exists() or not (project or Project.nearest()):
        return here
    return Project.find(project).state / "usage.sqlite"
