"""The command line's frame: one program, one way to fail, one exit code a kind of failure."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any, NoReturn

import typer

from builder import errors
from builder.cli import build_commands, registry_commands, spec_commands

__all__ = ["app", "main"]

app = typer.Typer(
    name="template-builder",
    help="Declarative templates for code sandboxes: specs in, verified templates out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for commands in (spec_commands, build_commands, registry_commands):
    commands.register(app)


@app.callback(invoke_without_command=False)
def _root() -> None:
    """Declarative templates for code sandboxes: specs in, verified templates out."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line; ends the process with the exit code of what happened."""
    # A usage error is not "something to do", which is 2.
    next(
        c for c in typer.BadParameter.__mro__ if c.__name__ == "UsageError"
    ).exit_code = errors.USAGE  # type: ignore[attr-defined]
    signal.signal(signal.SIGTERM, _terminated)
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        app(args=arguments)
    except errors.TemplateError as error:
        _fail(error, arguments)
    except KeyboardInterrupt:
        _fail(
            errors.InterruptedRunError(
                "interrupted; what was finished is recorded, the rest left nothing behind",
                hint="run the same command again: it goes on with what is there",
            ),
            arguments,
        )
    except BrokenPipeError:
        # Whoever read our output has had enough, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        _fail(errors.from_os_error(error, "the command"), arguments)
    sys.exit(0)


def _terminated(_signal: int, _frame: Any) -> None:
    # One way to stop: what Ctrl-C cleans up, `kill` does too. Once: a second one must not
    # break into the cleaning up.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _fail(error: errors.TemplateError, arguments: list[str]) -> NoReturn:
    if "--json" in arguments:
        sys.stdout.write(json.dumps({"error": error.to_json()}, indent=2) + "\n")
    sys.stderr.write(f"error: {error}\n")
    sys.exit(error.exit_code)
