"""References to variables that no spec of a chain sets: those of the base image or the parent."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from builder.errors import Problem, did_you_mean
from builder.spec.load import problem_in
from builder.spec.variant import Run, Stage, Variant
from builder.system.variables import substituted

# Each place that a value reaches has its own PATH, and expands the reference itself.
PATH = "PATH"


def unset_variables(variant: Variant) -> tuple[str, ...]:
    """Return the names of variables that a variant refers to and whose values are unknown."""
    names = (each.name for stage in variant.stages for each in stage.references)
    return tuple(dict.fromkeys(names))


def bind(variant: Variant, values: Mapping[str, str]) -> Variant:
    """Return the variant with the expanded `values` of the base image or parent in place of
    references."""
    if not values:
        return variant
    stages: list[Stage] = []
    own: dict[str, str] = {}
    for stage in variant.stages:
        # A stage sees the variables of earlier stages, and a command also those of its own stage.
        below = {n: value for n, value in values.items() if n not in own and n != PATH}
        own |= stage.env
        shell = {name: value for name, value in below.items() if name not in stage.env}
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
    variant: Variant,
    base: Collection[str] | None,
    why: str,
    folder: Path,
    *,
    inherited: Collection[str] = (),
) -> Iterator[Problem]:
    """Yield a problem for each reference to a variable that is not in `base`, the names of the base
    image's variables. If they are unknown, `base` is None and `why` says so. `inherited` are the
    names of the parent's variables."""
    where = "neither a line above nor an extended spec sets it"
    if variant.from_template:
        where = f"neither a line above nor the template {variant.from_template!r} sets it"
    for stage in variant.stages:
        for each in stage.references:
            if base is not None and each.name in base:
                continue
            known = dict.fromkeys([*each.known, *inherited, *(base or ())])
            near = did_you_mean(each.name, known)
            text = f"write `$${each.name}` for that text itself"
            yield problem_in(
                folder,
                stage.source,
                each.key,
                f"`${each.name}` has no value: {where}, and {why}",
                f"{near}; {text}" if near else text,
            )
