"""Trace a build that failed on E2B back to the lines of the Dockerfile and the spec behind it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from builder.errors import BuildError, StepError
from builder.flatten import Step
from builder.spec import Stage, place_in
from builder.spec.variant import stage_name
from builder.targets.e2b.build_log import BuildLog
from builder.targets.e2b.cloud import BuildState
from builder.targets.protocol import BuildInput

SHOWN_CHARACTERS = 300
# Faults of E2B's own, none of the template's.
_OWN_FAULTS = (
    "An internal error occurred",
    "polling received unrecoverable error: ",
    "error when building env: failed to get builder: ",
    "build is in waiting state for too long",
)
# Of a build that was running, and of one that was waiting; neither names a step.
_CANCELLED = re.compile(r"\bcancell?ed\b")
_SHOWN_OF_INSTRUCTION = 120
_PHASES = {
    "base": "the base image",
    "resize-disk": "enlarging the disk, after the steps,",
    "optimize": "optimizing the snapshot, after the steps,",
}


def is_own_fault(state: BuildState) -> bool:
    """Return True if a build failed for a reason that is E2B's own."""
    return not state.step and state.message.startswith(_OWN_FAULTS)


def is_cancelled(state: BuildState) -> bool:
    """Return True if E2B cancelled the build: for a newer one with its tag, or for an admin."""
    return state.status == "error" and not state.step and bool(_CANCELLED.search(state.message))


def failure_of(
    order: BuildInput, target: str, build_id: str, state: BuildState, log: BuildLog
) -> BuildError | StepError:
    """Return the error for a failed build: where, which lines, E2B's reason, the last output."""
    program, name = order.program, order.rendered.variant.name
    assert program is not None
    unnamed = bool(state.message and not state.step)
    phase = state.step or log.phase_or_step()
    number, instructed = instruction(order, phase)
    where = _PHASES.get(phase or "", "the start command, after the steps,")
    if number:
        where = f"step {number} of {len(program.steps)}"
    # The others come from the spec.
    traced = phase not in ("resize-disk", "optimize") and not (unnamed and phase is None)
    # E2B repeats the whole command, which can be pages long.
    command = program.steps[number - 1].args[0] if number else ""
    reason = state.message.removeprefix(f"failed to run command '{command}': ")
    failure = f"{where} failed on {target}"
    if unnamed:
        failure = f"the build failed on {target}{f', at {where}' if phase else ''}"
    lines = [
        f"{failure}: {instructed}" if traced else failure,
        *(f"  {place}" for place in (_origin(order, number) if traced else ())),
        f"  E2B says: {reason or 'nothing'}",
        *(f"  | {line[:SHOWN_CHARACTERS]}" for line in log.last),
    ]
    message = "\n".join(lines)
    if is_own_fault(state):
        hint = f"run the command again later, or ask E2B's support about build {build_id}"
        return BuildError(message, hint=hint)
    if is_cancelled(state):
        hint = "no other build replaced it: ask whoever manages the account, or run it again"
        return BuildError(message, hint=hint)
    hint = f"`template-builder logs {name}` shows the whole log of build {build_id}"
    if unnamed:
        return BuildError(message, hint=hint)
    return StepError(message, step=number, hint=hint)


def instruction(order: BuildInput, step: str | None) -> tuple[int | None, str]:
    """Return the number of a step that E2B names, and its instruction in one line.

    0 is the base image; None is everything after the steps.
    """
    program = order.program
    assert program is not None
    if step == "base":
        base = program.base_template
        return 0, f"FROM template {base}" if base else f"FROM {program.base_image}"
    if step is None or not step.isdecimal() or not 1 <= int(step) <= len(program.steps):
        return None, f"start command: {program.start_command or 'none'}"
    named = program.steps[int(step) - 1]
    first, last = named.lines
    lines = order.rendered.content("Dockerfile").decode().splitlines()[first - 1 : last]
    joined = " ".join(line.removesuffix("\\") for line in lines if line[:1] != "#")
    text = " ".join(joined.split())
    if text.startswith("FROM "):  # what a stage begins or ends as, which E2B gets as a step
        text = " ".join((named.kind, *named.args))
    shortened = f"{text[:_SHOWN_OF_INSTRUCTION]} …"
    return int(step), text if len(text) <= _SHOWN_OF_INSTRUCTION else shortened


def _origin(order: BuildInput, number: int | None) -> list[str]:
    """Return the line of the Dockerfile behind a step, and that of the spec, if there is one."""
    program, variant = order.program, order.rendered.variant
    assert program is not None
    stages = variant.stages
    dockerfile = f".builder/context/{variant.name}/Dockerfile"
    if not number:
        base = ["from-template"] if program.base_template else ["base", "image"]
        keys = [["service", "command"] if number is None else base]
    else:
        step = program.steps[number - 1]
        names = [stage_name(stage.stem) for stage in stages]
        if step.stage in names:
            stages = stages[: names.index(step.stage) + 1]
        dockerfile = f"{dockerfile}:{step.lines[0]} (stage {step.stage})"
        keys = [*_keys(step, stages[-1])]
    places = [(place_in(stages, key), ".".join(key)) for key in keys]
    return [dockerfile, *(f"{place}: `{key}`" for place, key in places if ":" in place)]


def _keys(step: Step, stage: Stage) -> Iterator[list[str]]:
    """Yield the keys of the spec that a step comes from."""
    first = step.args[0] if step.args else ""
    for part, table, key in (
        (f"requirements/{stage.stem}.txt", "python", "packages"),
        (f"requirements/commits/{stage.stem}.txt", "python", "packages"),
        (f"wheels/{stage.stem}/", "python", "packages"),
        ("apt-get", "system", "packages"),
        ("npm ci", "node", "packages"),
        ("warmup.py", "warmup", "imports"),
        ("SpecifierSet", "base", "python"),
    ):
        if part in first:
            yield [table, key]
    if first.startswith("fetched/") or "/opt/template/fetch/" in first:
        yield from ([key] for key in ("download", "model", "dataset"))
    if step.kind == "ENV" or "/etc/profile.d" in first:
        yield ["env"]
    copied = {*(file.target for file in stage.files), *(each.target for each in stage.folders)}
    if step.kind == "COPY" and step.args[1].rstrip("/") in copied:
        yield ["files"]
    if "/opt/template/run/" in first or any(str(run.command) in first for run in stage.runs):
        yield ["run"]
    if step.kind == "COPY" and first.startswith("run/"):
        yield ["run"]
