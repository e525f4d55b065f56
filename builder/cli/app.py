"""The program and its commands."""

from __future__ import annotations

import copy
from typing import Annotated, Any

import typer
from typer.main import get_command_name

from builder import __version__, errors
from builder.cli import (
    build_commands,
    channel_commands,
    doctor_command,
    gc_command,
    init_command,
    inspect_commands,
    precheck_command,
    registry_commands,
    remove_command,
    repair_commands,
    revocation_commands,
    spec_commands,
    usage_command,
)
from builder.cli.command import add_command
from builder.cli.output import Output

app = typer.Typer(
    name="template-builder",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
add_command(app, init_command.init)
add_command(app, spec_commands.validate)
add_command(app, spec_commands.lock)
add_command(app, spec_commands.render_command)
add_command(app, spec_commands.schema)
add_command(app, precheck_command.precheck)
add_command(app, build_commands.plan_command)
add_command(app, build_commands.build)
add_command(app, build_commands.verify)
add_command(app, registry_commands.resolve)
add_command(app, registry_commands.list_command)
add_command(app, registry_commands.logs, json=False)
add_command(app, usage_command.usage)
add_command(app, doctor_command.doctor)
add_command(app, inspect_commands.show)
add_command(app, inspect_commands.diff)
add_command(app, inspect_commands.outdated)
add_command(app, channel_commands.promote)
add_command(app, channel_commands.rollback)
add_command(app, channel_commands.unhold)
add_command(app, revocation_commands.revoke)
add_command(app, revocation_commands.restore)
add_command(app, channel_commands.adopt)
add_command(app, remove_command.remove)
add_command(app, gc_command.gc)
registry_group = typer.Typer(no_args_is_help=True, help="Mend the registry itself.")
add_command(registry_group, repair_commands.repair)
add_command(registry_group, repair_commands.rebuild)
app.add_typer(registry_group, name="registry")

_USAGE_ERROR: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "UsageError")


def run(arguments: list[str]) -> int:
    """Run a command; its exit code. Raises what the command raises."""
    try:
        return int(_program_for(arguments)(args=arguments, standalone_mode=False) or 0)
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
            failure = errors.TemplateError(error.format_message()).to_json()
            failure |= {"kind": "UsageError", "exit_code": errors.USAGE}
            Output(as_json=True).show_failure(failure)
        return errors.USAGE


def _program_for(arguments: list[str]) -> typer.Typer:
    """The program, with the command alone that the first argument names: typer reads the signature
    of each command that there is, which takes as long as many a command."""
    named = [
        command
        for command in app.registered_commands
        if command.callback
        and (command.name or get_command_name(command.callback.__name__)) in arguments[:1]
    ]
    if not named:
        return app
    program = copy.copy(app)
    program.registered_commands, program.registered_groups = named, []
    return program


def _version(asked: bool) -> None:
    if asked:
        Output().text([f"template-builder {__version__}"])
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Declarative templates for code sandboxes: specs in, verified templates out."""
