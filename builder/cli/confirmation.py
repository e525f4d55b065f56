"""Asking before something that cannot be undone, or costs money."""

from __future__ import annotations

import typer

from builder.cli import progress
from builder.errors import UnconfirmedError


def confirm(question: str, *, otherwise: str, hint: str, as_json: bool) -> None:
    """Ask the person at the terminal. A no ends the command with exit code 1, and so does the end
    of the input.

    Raises `UnconfirmedError`, which says `otherwise`, where there is nobody to ask.
    """
    if as_json or not progress.interactive():
        raise UnconfirmedError(f"{otherwise}, and there is nobody to ask", hint=hint)
    try:
        confirmed = typer.confirm(question, err=True)
    except typer.Abort:  # Ctrl-D, after which the cursor is still behind the question
        progress.show_message("")
        confirmed = False
    if not confirmed:
        progress.show_message("not confirmed: nothing was changed")
        raise typer.Exit(1)
