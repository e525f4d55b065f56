"""Compute the steps of a variant on E2B, and which of them will be cached."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import TYPE_CHECKING

from builder.plan.values import PlannedVariant
from builder.registry.model import Build, Entry
from builder.render import Rendered

if TYPE_CHECKING:
    from builder.flatten import Program


def common_steps(keys: Sequence[str], other: Sequence[str]) -> int:
    """Return how many first steps are the same, given their keys."""
    pairs = zip(keys, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _builds_on(target: str, templates: Mapping[str, Mapping[str, Entry]]) -> list[Build]:
    entries = (targets[target] for targets in templates.values() if target in targets)
    return [build for entry in entries for build in entry.builds.values()]


def fetched_on(image: str, templates: Mapping[str, Mapping[str, Entry]], target: str) -> str | None:
    """Return the day on which a base image was last fetched for a recorded build."""
    builds = [
        (build.built_at, build.base_fetched)
        for build in _builds_on(target, templates)
        if build.base_image == image and build.built_at is not None
    ]
    fetched = [built_at for built_at, base_fetched in builds if base_fetched]
    # Earlier versions did not record this; the first build is the one that fetched it.
    days = fetched or sorted(built_at for built_at, _ in builds)[:1]
    return max(days).partition("T")[0] if days else None


def foretell(
    planned: Sequence[PlannedVariant], templates: Mapping[str, Mapping[str, Entry]], target: str
) -> list[PlannedVariant]:
    """Predict for each variant to build which of its steps will be cached when it starts."""
    recorded = [build.steps for build in _builds_on(target, templates)]
    earlier: list[PlannedVariant] = []
    for variant in planned:
        if variant.action != "build":
            continue
        keys, before = variant.step_keys, 0
        if not variant.forced:
            before = max((common_steps(keys, steps) for steps in recorded), default=0)
        cached, by = before, None
        for other in earlier:
            if (shared := common_steps(keys, other.step_keys)) > cached:
                cached, by = shared, other.name
        earlier.append(replace(variant, cached=cached, cached_before=before, cached_by=by))
    expected = {variant.name: variant for variant in earlier}
    return [expected.get(variant.name, variant) for variant in planned]


def program_of(rendered: Rendered) -> Program:
    """Return the program of a rendered variant. Raise `FlattenError`."""
    from builder.flatten import flatten  # only where a target builds by its own steps

    parent = rendered.variant.parent
    return flatten(
        rendered.content("Dockerfile").decode(),
        file=f"generated/{rendered.variant.name}/Dockerfile",
        files=rendered.context_paths,
        template=parent.ref if parent else None,
    )


def step_keys_of(rendered: Rendered, program: Program) -> tuple[str, ...]:
    """Return a key for each step: E2B has a step cached if its key and those before are equal."""
    contents = {file.path: file.content for file in rendered.files}
    keys = []
    for step in program.steps:
        # The path of fetched content has its hash.
        content = contents.get(step.args[0], b"") if step.kind == "COPY" else b""
        base = program.base_template or program.base_image
        decisive = repr((base, step.kind, step.args, content))
        keys.append(hashlib.sha256(decisive.encode()).hexdigest()[:12])
    return tuple(keys)
