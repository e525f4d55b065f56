"""The program and its commands."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from builder import __version__, errors
from builder.cli import (
    build_commands,
    channel_commands,
    doctor_command,
    gc_command,
    init_command,
    inspect_commands,
    precheck_command,
    progress,
    registry_commands,
    remove_command,
    repair_commands,
    spec_commands,
)

__all__ = ["app", "run"]

app = typer.Typer(
    name="template-builder",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for commands in (
    init_command,
    spec_commands,
    precheck_command,
    build_commands,
    registry_commands,
    doctor_command,
    inspect_commands,
    channel_commands,
    remove_command,
    gc_command,
    repair_commands,
):
    commands.register(app)
for group in (app, *(entry.typer_instance for entry in app.registered_groups)):
    for command in group.registered_commands if group else ():
        # Given, it is wrapped; taken from the docstring by typer, it is cut off at the line's end.
        command.short_help = (getattr(command.callback, "__doc__", "") or "").partition("\n\n")[0]

_USAGE_ERROR: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "UsageError")


def run(arguments: list[str]) -> int:
    """Run a command; its exit code. Raises what the command raises."""
    try:
        return int(app(args=arguments, standalone_mode=False) or 0)
    except SystemExit as end:
        # What typer makes of a broken pipe, which none of the standard streams raises.
        if isinstance(end.__context__, OSError):
            raise end.__context__ from None
        raise
    except _USAGE_ERROR as error:
        error.message = error.message.removeprefix(
            "Value error, "
        )  # typer's, of pydantic's wording
        error.show()
        if "--json" in arguments:
            told = errors.TemplateError(error.format_message()).to_json()
            told |= {"kind": "UsageError", "exit_code": errors.USAGE}
            progress.show_json({"error": told})
        return errors.USAGE


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
