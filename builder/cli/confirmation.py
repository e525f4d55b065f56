"""Asking before something that cannot be undone, or costs money."""

from __future__ import annotations

import typer

from builder.cli import progress
from builder.errors import UnconfirmedError

__all__ = ["confirm"]


def confirm(question: str, *, otherwise: str, hint: str, as_json: bool) -> None:
    """Ask the person at the terminal; a no ends the command.

    Raises `UnconfirmedError`, which says `otherwise`, where there is nobody to ask.
    """
    if as_json or not progress.interactive():
        raise UnconfirmedError(f"{otherwise}, and there is nobody to ask", hint=hint)
    typer.confirm(question, abort=True, err=True)
