"""From a function to a command: what every command does around its own work.

A command declares by type what it needs beside its own arguments: `Project` for the project of
`--project`, `Reporter` for a display of its progress, `Output` for both and for what `--json` and
`--quiet` decide. `**options: Unpack[…]` declares options that commands share. The `Result` that it
returns is shown here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, get_args, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from builder.cli.options import Channel, Json, ProjectFolder, Quiet
from builder.cli.output import Output, Result
from builder.project import Project
from builder.registry import DEFAULT_CHANNEL
from builder.system.events import Reporter


def add_command(
    app: typer.Typer, command: Callable[..., Result], *, name: str, example: str, json: bool
) -> None:
    """Add `command` to the program, with `--quiet`, and `--json` if it has such a form."""
    signature = inspect.signature(command, eval_str=True)
    kinds = {key: parameter.annotation for key, parameter in signature.parameters.items()}

    def run(*, quiet: bool, as_json: bool = False, **arguments: Any) -> int:
        output = Output(quiet=quiet, as_json=as_json)
        for argument, kind in kinds.items():
            if kind is Project:
                arguments[argument] = Project.find(arguments[argument])
            elif kind is Output:
                arguments[argument] = output
        with ExitStack() as stack:
            for argument, kind in kinds.items():
                if kind == Reporter:
                    arguments[argument] = stack.enter_context(output.progress())
            result = command(**arguments)
        return output.show(result)

    parameters = list(_options(signature, json=json))
    help_text = inspect.cleandoc(command.__doc__ or "")
    run.__doc__ = f"{help_text}\n\nExample: `template-builder {example}`"
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command(
        name=name,
        # typer would cut the summary that it takes from the docstring at the end of the line.
        short_help=help_text.partition("\n\n")[0],
        cls=_Command,
    )(run)


def _options(signature: inspect.Signature, *, json: bool) -> Iterator[inspect.Parameter]:
    """Yield the parameters that typer makes options and arguments of."""
    own = [p for p in signature.parameters.values() if p.annotation not in (Output, Reporter)]
    for parameter in sorted(own, key=lambda p: p.annotation is Project):
        if parameter.kind is parameter.VAR_KEYWORD:
            (options,) = get_args(parameter.annotation)
            for name, option in get_type_hints(options, include_extras=True).items():
                off = False if get_args(option)[0] is bool else None
                yield _option(name, option, DEFAULT_CHANNEL if option == Channel else off)
        elif parameter.annotation is Project:
            yield _option(parameter.name, ProjectFolder, None)
        else:
            yield parameter.replace(kind=parameter.KEYWORD_ONLY)
    yield _option("quiet", Quiet, default=False)
    if json:
        yield _option("as_json", Json, default=False)


def _option(name: str, annotation: Any, default: object) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default
    )


class _AsWritten:
    """Take texts and paths as they are: typer converts them with pydantic, which takes longer to
    load than some commands to run."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return all parameters, as typer asks for them."""
        parameters: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            convert = getattr(parameter, "get_runtime_param", None)  # not in every typer
            if convert and not isinstance(convert, partial):
                parameter.get_runtime_param = partial(_Value, convert)
        return parameters


class Group(_AsWritten, TyperGroup):
    """A group of commands."""


class _Command(_AsWritten, TyperCommand):
    """A single command."""


class _Value:
    """The value of a parameter; `convert` returns what typer converts it with."""

    def __init__(self, convert: Callable[[], Any]) -> None:
        self._convert = convert

    def coerce(self, value: Any, *, param: Any, ctx: Any) -> Any:
        """Return the value as the type of the parameter."""
        kind = param.type_descriptor.annotation
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        if kind == list[str]:
            return list(value)
        return kind(value) if kind in (str, Path) else self._convert().coerce(value, param, ctx)
