"""The program and its commands."""

from __future__ import annotations

from typing import Annotated

import typer

from builder import __version__, errors, progress
from builder.cli import build_commands, registry_commands, spec_commands

__all__ = ["app"]

app = typer.Typer(
    name="template-builder",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for commands in (spec_commands, build_commands, registry_commands):
    commands.register(app)

# A usage error is not "something to do", which is 2.
next(c for c in typer.BadParameter.__mro__ if c.__name__ == "UsageError").exit_code = errors.USAGE  # type: ignore[attr-defined]


def _version(asked: bool) -> None:
    if asked:
        progress.show_text(f"template-builder {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Declarative templates for code sandboxes: specs in, verified templates out."""
