"""The steps of E2B behind a variant: what they are, and which of them a cache will have."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from builder.flatten import Program, flatten
from builder.plan.values import PlannedVariant
from builder.registry.model import Build, Entry
from builder.render import Rendered


def common_steps(one: Sequence[str], other: Sequence[str]) -> int:
    """How many first steps are the same; a step is given by its key."""
    count = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        count += 1
    return count


def known_steps(
    templates: Mapping[str, Mapping[str, Entry]], target: str
) -> Iterable[Sequence[str]]:
    """The steps of every build that the registry knows of on `target`."""
    return (build.steps for build in _builds_on(target, templates))


def _builds_on(target: str, templates: Mapping[str, Mapping[str, Entry]]) -> Iterator[Build]:
    for targets in templates.values():
        if entry := targets.get(target):
            yield from entry.builds.values()


def fetched_on(image: str, templates: Mapping[str, Mapping[str, Entry]], target: str) -> str | None:
    """The day on which a base image was last fetched for a build that the registry knows of."""
    builds = [
        (build.built_at, build.base_fetched)
        for build in _builds_on(target, templates)
        if build.base_image == image and build.built_at is not None
    ]
    fetched = [built_at for built_at, base_fetched in builds if base_fetched]
    # Earlier versions did not record it: the first build fetched it, if none before it did.
    days = fetched or sorted(built_at for built_at, _ in builds)[:1]
    return max(days).partition("T")[0] if days else None


def foretell(
    planned: Sequence[PlannedVariant], known: Sequence[Sequence[str]]
) -> list[PlannedVariant]:
    """Say for each variant to build which steps the cache will have when its turn comes."""
    found: list[PlannedVariant] = []
    for one in planned:
        if one.action == "build":
            before = 0
            if not one.forced:
                before = max((common_steps(one.step_keys, steps) for steps in known), default=0)
            cached, by = before, None
            for other in found:
                shared = common_steps(one.step_keys, other.step_keys)
                if other.action == "build" and shared > cached:
                    cached, by = shared, other.name
            one = replace(one, cached=cached, cached_before=before, cached_by=by)  # noqa: PLW2901
        found.append(one)
    return found


def program_of(found: Rendered) -> Program:
    """The Program of what was rendered. Raises `FlattenError`."""
    return flatten(
        found.content("Dockerfile").decode(),
        file=f"generated/{found.variant.name}/Dockerfile",
        files=[file.path for file in found.files],
    )


def step_keys_of(found: Rendered, program: Program) -> tuple[str, ...]:
    """A key for each step, of what decides whether E2B has it in its cache but for those before."""
    keys = []
    for step in program.steps:
        content = found.content(step.args[0]) if step.kind == "COPY" else b""
        told = repr((program.base_image, step.kind, step.args, content))
        keys.append(hashlib.sha256(told.encode()).hexdigest()[:12])
    return tuple(keys)
