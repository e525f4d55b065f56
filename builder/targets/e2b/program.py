"""From a Program to the SDK's builder, and from a step that failed back to the lines behind it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import e2b

from builder.flatten import Step
from builder.spec import Stage, Variant, place_of
from builder.spec.positions import Positions
from builder.spec.variant import stage_name
from builder.targets.e2b.service import SERVICE_PORT, SPOILING
from builder.targets.protocol import BuildInput

_SHOWN_CHARACTERS = 120
# What starts the code interpreter in E2B's image.
_START_UP = "/.jupyter/start-up.sh"
# Whose content E2B opens to everybody before it starts what is to run.
_OPENED = ("/usr/local", "/code")


def template_of(order: BuildInput) -> Any:
    """The builder of the SDK that holds the Program of `order`.

    With `order.force`, steps that another build of this run has just run anew are not run again.
    """
    program = order.program
    assert program is not None
    builder = e2b.Template(file_context_path=str(order.folder)).from_image(program.base_image)
    for number, step in enumerate(program.steps):
        if order.force and number == order.shared:
            builder.skip_cache()
        _add(builder, step)
    if program.start_command and program.ready_command:
        return builder.set_start_cmd(program.start_command, program.ready_command)
    return builder


def cannot_be_checked(variant: Variant) -> str | None:
    """Why the code of a variant's checks could not be run in its sandboxes, or None."""
    if not variant.command:
        return "it has no [service]: a sandbox on E2B runs code through its code service"
    url = urlsplit(variant.ready_url or "")
    local = url.hostname in ("localhost", "127.0.0.1", "::1")
    if (url.scheme, local, url.port) == ("http", True, SERVICE_PORT):
        return None
    place = _place_of_service(variant, "ready-url")
    return (
        f"`service.ready-url` is {variant.ready_url} ({place}), which is not the code interpreter:"
        f" a sandbox on E2B runs code through one on port {SERVICE_PORT} of its own, as"
        f" http://localhost:{SERVICE_PORT}/health"
    )


def unknown_service(variant: Variant) -> tuple[str, ...]:
    """What is not known before a build of a service that is not started as in E2B's image."""
    if not variant.command or any(word.endswith(_START_UP) for word in variant.command):
        return ()
    place = _place_of_service(variant, "command")
    line = (
        f"a check before the build that `service.command` ({place}) starts a code interpreter: it"
        f" is not the start-up of E2B's image, /root{_START_UP}, and the build is of no use where"
        f" nothing runs code on port {SERVICE_PORT}"
    )
    return (line,)


def not_provided(variant: Variant) -> tuple[str, ...]:
    """What E2B cannot provide of a variant, in words: variables that the code service cannot pass
    on, and modes of files."""
    variables = (
        f"`env.{name}` ({_place_of_variable(variant, name)}) to programs that run code by E2B's SDK"
        " alone: the code service makes code of the value, and a quote or backslash in it spoils"
        " the first execution in a sandbox"
        for name, value in variant.env.items()
        if any(character in value for character in SPOILING)
    )
    modes = (
        f"mode {file.mode} of {file.target} ({_place_in(stage, ('files', number, 'target'))}):"
        f" E2B gives everything below {folder} mode 0777 at the end of a build"
        for stage in variant.stages
        for number, file in enumerate(stage.files)
        for folder in _OPENED
        if file.target.startswith(f"{folder}/") and file.mode != "0777"
    )
    return (*variables, *modes)


def _place_of_variable(variant: Variant, name: str) -> str:
    """Where a variable of the variant gets its value."""
    stage = next(stage for stage in reversed(variant.stages) if name in stage.env)
    return _place_in(stage, ("env", name))


def _place_of_service(variant: Variant, name: str) -> str:
    """Where the variant's chain says the command or the ready address, the last one of it."""
    key = ("service", name)
    places = [_place_in(stage, key) for stage in reversed(variant.stages)]
    return next((place for place in places if ":" in place), places[0])


def _place_in(stage: Stage, key: Sequence[str | int]) -> str:
    if stage.path is None:
        return stage.source
    return place_of(stage.path.parent, stage.source, key)


def _add(builder: Any, step: Step) -> None:
    args = step.args
    if step.kind == "RUN":
        builder.run_cmd(args[0], user=args[1] or None)
    elif step.kind == "COPY":
        mode = int(args[3], 8) if args[3] else None
        builder.copy(args[0], args[1], user=args[2] or None, mode=mode)
    elif step.kind == "ENV":
        builder.set_envs(dict(zip(args[::2], args[1::2], strict=True)))
    elif step.kind == "WORKDIR":
        builder.set_workdir(args[0])
    else:
        builder.set_user(args[0])


def instruction(order: BuildInput, step: str | None) -> tuple[int | None, str]:
    """The number of the step that E2B names (0 is the base image, None comes after the steps) and
    what the Dockerfile says there, in one line."""
    program = order.program
    assert program is not None
    if step == "base":
        return 0, f"FROM {program.base_image}"
    if step is None or not step.isdecimal() or not 1 <= int(step) <= len(program.steps):
        return None, f"start command: {program.start_command or 'none'}"
    first, last = program.steps[int(step) - 1].lines
    lines = order.rendered.content("Dockerfile").decode().splitlines()[first - 1 : last]
    words = " ".join(line.removesuffix("\\") for line in lines if line[:1] != "#").split()
    told = " ".join(words)
    return int(step), told if len(told) <= _SHOWN_CHARACTERS else f"{told[:_SHOWN_CHARACTERS]} …"


def origin(order: BuildInput, number: int | None) -> list[str]:
    """Where step `number` comes from: the line of the Dockerfile, and that of the spec if one key
    of it stands behind the step."""
    program, variant = order.program, order.rendered.variant
    assert program is not None
    root, stages = order.folder.parents[2], variant.stages
    dockerfile = f".builder/context/{variant.name}/Dockerfile"
    if number is None:
        return [dockerfile, *_place(root, stages, ("service", "command"))]
    if number == 0:
        return [dockerfile, *_place(root, stages, ("base", "image"))]
    step = program.steps[number - 1]
    names = {stage_name(stage.stem): i for i, stage in enumerate(stages, start=1)}
    chain = stages[: names.get(step.stage, len(stages))]
    places = [f"{dockerfile}:{step.lines[0]} (stage {step.stage})"]
    for key in _keys(step, chain[-1]):
        places += _place(root, chain, key)
    return places


def _keys(step: Step, stage: Stage) -> Iterator[tuple[str, ...]]:
    told = " ".join(step.args[:1])
    if f"requirements/{stage.stem}.txt" in told:
        yield "python", "packages"
    if "apt-get" in told:
        yield "system", "packages"
    if "warmup.py" in told:
        yield "warmup", "imports"
    if "SpecifierSet" in told:
        yield "base", "python"
    if step.kind == "ENV" or "/etc/profile.d" in told:
        yield ("env",)
    if step.kind == "COPY" and any(entry.target == step.args[1] for entry in stage.files):
        yield ("files",)


def _place(root: Path, chain: Sequence[Stage], key: tuple[str, ...]) -> list[str]:
    """Where the last stage of `chain` that has `key` says it."""
    for stage in reversed(chain):
        with contextlib.suppress(OSError, ValueError):
            text = (root / stage.source).read_text(encoding="utf-8")
            line, _column = Positions(text).of(key)
            if line:
                return [f"{stage.source}:{line}: `{'.'.join(key)}`"]
    return []
