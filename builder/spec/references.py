"""References to variables that no spec of a chain sets: those of what the template is on."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from builder.errors import Problem, did_you_mean
from builder.spec.load import problem_in
from builder.spec.variant import Run, Stage, Variant
from builder.system.variables import substituted

# Each place where a value arrives has one, and expands it itself.
PATH = "PATH"


def unset_variables(variant: Variant) -> tuple[str, ...]:
    """Return the names of variables that a variant refers to and that are not known yet."""
    names = (each.name for stage in variant.stages for each in stage.references)
    return tuple(dict.fromkeys(names))


def bind(variant: Variant, values: Mapping[str, str]) -> Variant:
    """Return the variant with `values`, expanded, for the variables of what it is on."""
    if not values:
        return variant
    stages: list[Stage] = []
    own: dict[str, str] = {}
    for stage in variant.stages:
        # A stage sees what earlier ones set, and a command that of its own stage, too.
        below = {name: value for name, value in values.items() if name not in own}
        own |= stage.env
        shell = {n: v for n, v in below.items() if n not in stage.env and n != PATH}
        stages.append(
            dataclasses.replace(
                stage,
                env=_bound(stage.env, values),
                env_instruction=_bound(stage.env_instruction, below),
                runs=tuple(_bound_run(run, shell) for run in stage.runs),
                references=tuple(each for each in stage.references if each.name not in values),
            )
        )
    return dataclasses.replace(variant, env=_bound(variant.env, values), stages=tuple(stages))


def _bound(env: Mapping[str, str], values: Mapping[str, str]) -> dict[str, str]:
    return {name: substituted(value, values) for name, value in env.items()}


def _bound_run(run: Run, values: Mapping[str, str]) -> Run:
    return dataclasses.replace(run, env=_bound(run.env, values)) if run.env else run


def unset_problems(
    variant: Variant, base: Collection[str] | None, why: str, folder: Path
) -> Iterator[Problem]:
    """Yield a problem for each reference to a variable that is not in `base`: the names of the
    variables of what the variant is on, None if they are not known, which `why` explains."""
    for stage in variant.stages:
        for each in stage.references:
            if base is not None and each.name in base:
                continue
            near = did_you_mean(each.name, [*each.known, *(base or ())])
            text = f"write `$${each.name}` for that text itself"
            yield problem_in(
                folder,
                stage.source,
                each.key,
                f"`${each.name}` has no value: neither a line above nor an extended spec sets it,"
                f" and {why}",
                f"{near}; {text}" if near else text,
            )
