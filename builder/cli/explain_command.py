"""The command that explains exit codes: explain."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from builder.cli.output import Result, Table
from builder.errors.explained import explanation_of, explanations


def explain(
    code: Annotated[
        str | None,
        typer.Argument(metavar="CODE", help="An exit code or the name of an error; all if unset."),
    ] = None,
) -> Result:
    """Explain an exit code: what caused it, and what to do about it."""
    if code is None:
        known = explanations()
        rows = [[str(explained.code), explained.name, explained.cause] for explained in known]
        table = Table(headings=["code", "name", "cause"], rows=rows)
        return Result(json=[asdict(explained) for explained in known], data=[table])
    explained = explanation_of(code)
    table = Table(
        headings=[str(explained.code), explained.name],
        rows=[["cause", explained.cause], ["remedy", explained.remedy]],
    )
    return Result(json=asdict(explained), data=[table])
