"""Ask before doing what cannot be undone or costs money."""

from __future__ import annotations

import typer

from builder.cli import progress
from builder.errors import UnconfirmedError


def confirm(question: str, *, otherwise: str, hint: str, as_json: bool) -> None:
    """Ask the user at the terminal; exit with code 1 on a no or the end of the input.

    Without a terminal, raises `UnconfirmedError` with the text `otherwise`.
    """
    if as_json or not progress.interactive():
        raise UnconfirmedError(f"{otherwise}, but there is no terminal to ask at", hint=hint)
    try:
        confirmed = typer.confirm(question, err=True)
    except typer.Abort:  # Ctrl-D leaves the cursor behind the question
        progress.show_message("")
        confirmed = False
    if not confirmed:
        progress.show_message("not confirmed: nothing was changed")
        raise typer.Exit(1)
