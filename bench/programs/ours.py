"""Build templates on `local` as the command does, but without verification; print the refs.

`--level` builds the variants as if their specs set that level.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

from builder import workflow
from builder.project import Project
from builder.registry.model import Build
from builder.spec import WarmupLevel
from builder.targets.local.target import LocalTarget
from builder.targets.protocol import Publication
from builder.workflow.carry_out import carry_out

_SELECT, *_REST = workflow.PLAN
_BUILD, *_ = workflow.EACH


def main() -> None:
    """Print template name → ref."""
    parser = argparse.ArgumentParser()
    parser.add_argument("project", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--level", choices=get_args(WarmupLevel))
    arguments = parser.parse_args()
    project = Project.find(arguments.project)
    context = workflow.Context(
        project=project, settings=project.targets["local"], target=LocalTarget()
    )
    request = workflow.BuildRequest(names=tuple(arguments.names), frozen=True)
    stages = (_SELECT, *([_at(arguments.level)] if arguments.level else ()), *_REST)
    prepared = workflow.prepare(request, context, stages)
    done = carry_out(prepared, context, (_BUILD, _put_in_place))
    for error in done.errors.values():
        raise error
    print(json.dumps({outcome.name: outcome.ref for outcome in done.outcomes}))


def _at(
    level: WarmupLevel,
) -> Callable[[workflow.Prepared, workflow.Context], workflow.Prepared]:
    def at_level(prepared: workflow.Prepared, _context: workflow.Context) -> workflow.Prepared:
        changed = tuple(replace(variant, level=level) for variant in prepared.variants)
        return replace(prepared, variants=changed)

    return at_level


def _put_in_place(attempt: workflow.Attempt, context: workflow.Context) -> workflow.Attempt:
    """Activate the environment as publishing does, but record nothing: it is not verified."""
    assert attempt.built
    build = Build(digest=attempt.built.digest)
    context.connected().publish(
        Publication(name=attempt.planned.name, build=build, channel=attempt.request.channel)
    )
    return attempt


if __name__ == "__main__":
    main()
