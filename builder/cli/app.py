"""The program and its commands."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from builder import __version__, errors
from builder.cli.command import add_command
from builder.cli.output import Output

# In the order of the program's help: the module of this package, and the function in it.
_COMMANDS = (
    ("init_command", "init"),
    ("spec_commands", "validate"),
    ("spec_commands", "lock"),
    ("spec_commands", "render_command"),
    ("spec_commands", "schema"),
    ("precheck_command", "precheck"),
    ("plan_command", "plan_command"),
    ("build_command", "build"),
    ("verify_command", "verify"),
    ("registry_commands", "resolve"),
    ("registry_commands", "list_command"),
    ("registry_commands", "logs"),
    ("usage_command", "usage"),
    ("doctor_command", "doctor"),
    ("inspect_commands", "show"),
    ("inspect_commands", "diff"),
    ("inspect_commands", "outdated"),
    ("channel_commands", "promote"),
    ("channel_commands", "rollback"),
    ("channel_commands", "unhold"),
    ("revocation_commands", "revoke"),
    ("revocation_commands", "restore"),
    ("channel_commands", "adopt"),
    ("remove_command", "remove"),
    ("gc_command", "gc"),
)
_REGISTRY_COMMANDS = (("repair_commands", "repair"), ("repair_commands", "rebuild"))

_USAGE_ERROR: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "UsageError")


def run(arguments: list[str]) -> int:
    """Run a command; its exit code. Raises what the command raises."""
    try:
        return int(program(*arguments[:1])(args=arguments, standalone_mode=False) or 0)
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


def program(first: str | None = None) -> typer.Typer:
    """Return the program; with that command alone where `first` names one, since loading them all
    takes as long as many a command."""
    app = typer.Typer(
        name="template-builder",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_root)
    commands = [command for command in _COMMANDS if _name(command[1]) == first]
    _add(app, commands or _COMMANDS)
    if not commands:
        group = typer.Typer(no_args_is_help=True, help="Mend the registry itself.")
        _add(group, _REGISTRY_COMMANDS)
        app.add_typer(group, name="registry")
    return app


def _add(app: typer.Typer, commands: Iterable[tuple[str, str]]) -> None:
    for module, function in commands:
        command = getattr(importlib.import_module(f"{__package__}.{module}"), function)
        add_command(app, command, name=_name(function), json=function != "logs")


def _name(function: str) -> str:
    return function.removesuffix("_command")


def _version(asked: bool) -> None:
    if asked:
        Output().text([f"template-builder {__version__}"])
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Declarative templates for code sandboxes: specs in, verified templates out."""
