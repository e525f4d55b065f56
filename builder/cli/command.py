"""From a function to a command: what every command does around its own work.

A command names what it needs by type, beside its own arguments: `Project` is the project of
`--project`, `Reporter` the display of its progress, `Output` both and what else `--json` and
`--quiet` decide. It returns a `Result`, which is shown here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import typer

from builder.cli.options import Json, ProjectFolder, Quiet
from builder.cli.output import Output, Result
from builder.project import Project
from builder.system.events import Reporter

__all__ = ["add_command"]

_SHARED = {"quiet": Quiet, "as_json": Json}


def add_command(app: typer.Typer, command: Callable[..., Result], *, json: bool = True) -> None:
    """Add `command` to the program under its own name, with `--quiet` and `--json`."""
    signature = inspect.signature(command, eval_str=True)
    kinds = {name: parameter.annotation for name, parameter in signature.parameters.items()}

    def run(*, quiet: bool, as_json: bool = False, **arguments: Any) -> int:
        output = Output(quiet=quiet, as_json=as_json)
        for name, kind in kinds.items():
            if kind is Project:
                arguments[name] = Project.find(arguments[name])
            elif kind is Output:
                arguments[name] = output
        with ExitStack() as stack:
            for name, kind in kinds.items():
                if kind == Reporter:
                    arguments[name] = stack.enter_context(output.progress())
            result = command(**arguments)
        return output.show(result)

    parameters = [
        parameter.replace(annotation=ProjectFolder, default=None)
        if parameter.annotation is Project
        else parameter
        for parameter in signature.parameters.values()
        if parameter.annotation not in (Output, Reporter)
    ] + [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=option, default=False)
        for name, option in _SHARED.items()
        if json or option is not Json
    ]
    run.__doc__ = command.__doc__
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command(
        name=command.__name__.removesuffix("_command"),
        # Given, it is wrapped; taken from the docstring by typer, it is cut off at the line's end.
        short_help=(command.__doc__ or "").partition("\n\n")[0],
    )(run)
