"""The program and its commands."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from builder import __version__, errors
from builder.cli.command import Group, add_command
from builder.cli.output import Output

# In the order of the help: the module of this package, the function in it, and an example.
_COMMANDS = (
    ("init_command", "init", "init my-template"),
    ("spec_commands", "validate", "validate"),
    ("config_command", "config", "config tta-ml-minimal"),
    ("spec_commands", "lock", "lock tta-data-minimal"),
    ("spec_commands", "render_command", "render --check"),
    ("spec_commands", "schema", "schema"),
    ("precheck_command", "precheck", "precheck tta-data-minimal"),
    ("plan_command", "plan_command", "plan --frozen --exit-code"),
    ("build_command", "build", "build tta-data-minimal --target local"),
    ("verify_command", "verify", "verify tta-data-minimal"),
    ("registry_commands", "resolve", "resolve tta-data-minimal"),
    ("registry_commands", "list_command", "list 'tta-*'"),
    ("registry_commands", "logs", "logs tta-data-minimal"),
    ("usage_command", "usage", "usage --days 30"),
    ("doctor_command", "doctor", "doctor"),
    ("inspect_commands", "show", "show tta-data-minimal"),
    ("inspect_commands", "diff", "diff tta-data-minimal spec"),
    ("inspect_commands", "outdated", "outdated --max-age 30"),
    ("channel_commands", "promote", "promote tta-data-minimal --channel production"),
    ("channel_commands", "rollback", 'rollback tta-data-minimal --reason "slow imports"'),
    ("channel_commands", "unhold", "unhold tta-data-minimal"),
    ("revocation_commands", "revoke", "revoke --package 'torch<2.14' --reason CVE-2026-0001"),
    ("revocation_commands", "restore", "restore --package 'torch<2.14'"),
    ("channel_commands", "adopt", "adopt my-template ID"),
    ("remove_command", "remove", "remove tta-data-minimal --channel beta"),
    ("gc_command", "gc", "gc --dry-run"),
    ("explain_command", "explain", "explain 4"),
)
_REGISTRY_COMMANDS = (
    ("repair_commands", "repair", "registry repair"),
    ("repair_commands", "rebuild", "registry rebuild --target e2b"),
)

_USAGE_ERROR: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "UsageError")


def run(arguments: list[str]) -> int:
    """Run a command and return its exit code. Raises what the command raises."""
    try:
        return int(program(*arguments[:1])(args=arguments, standalone_mode=False) or 0)
    except SystemExit as end:
        # typer's exit for a broken pipe; no standard stream raises one here.
        if isinstance(end.__context__, OSError):
            raise end.__context__ from None
        raise
    except _USAGE_ERROR as error:
        error.message = error.message.removeprefix("Value error, ")  # pydantic's wording
        error.show()
        if "--json" in arguments:
            failure = errors.TemplateError(error.format_message()).to_json()
            failure |= {"kind": "UsageError", "exit_code": errors.USAGE}
            Output(as_json=True).show_failure(failure)
        return errors.USAGE


def program(first: str | None = None) -> typer.Typer:
    """Return the program; if `first` is a command, with that one alone, since loading all of them
    takes as long as running some commands."""
    app = typer.Typer(
        name="template-builder",
        cls=Group,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_root)
    commands = [command for command in _COMMANDS if _name(command[1]) == first]
    _add(app, commands or _COMMANDS)
    if not commands:
        group = typer.Typer(no_args_is_help=True, help="Repair the registry itself.")
        _add(group, _REGISTRY_COMMANDS)
        app.add_typer(group, name="registry")
    return app


def _add(app: typer.Typer, commands: Iterable[tuple[str, str, str]]) -> None:
    for module, function, example in commands:
        command = getattr(importlib.import_module(f"{__package__}.{module}"), function)
        json = function != "logs"
        add_command(app, command, name=_name(function), example=example, json=json)


def _name(function: str) -> str:
    return function.removesuffix("_command")


def _version(wanted: bool) -> None:
    if wanted:
        Output().text([f"template-builder {__version__}"])
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Declarative templates for code sandboxes: specs in, verified templates out."""
