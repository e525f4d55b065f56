"""Build templates on `local` as the command does, with the verification left out; print the refs.

`--level` builds the variants as if their specs said that level.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from builder import render, workflow
from builder.lock import Lock
from builder.lock.committed import read_committed
from builder.project import Project
from builder.render import Rendered
from builder.spec import Variant, WarmupLevel
from builder.system.events import discard
from builder.system.logs import Log
from builder.targets.local.target import LocalTarget
from builder.targets.protocol import BuildInput, Publication


def main() -> None:
    """Print a template's ref by its name."""
    parser = argparse.ArgumentParser()
    parser.add_argument("project", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--level", choices=["none", "disk", "memory"])
    arguments = parser.parse_args()
    project = Project.find(arguments.project)
    variants = workflow.select(project, arguments.names)
    if arguments.level is None:
        prepared = _rendered(workflow.prepare(project, variants, frozen=True, report=discard))
        render.write(prepared.values(), project.generated, all_variants=not arguments.names)
    else:
        prepared = _at_level(project, variants, arguments.level)
    print(json.dumps(_build(project, prepared)))


def _rendered(prepared: workflow.Prepared) -> dict[str, Rendered]:
    found = {}
    for name, one in prepared.items():
        if not isinstance(one, Rendered):
            raise one
        found[name] = one
    return found


def _at_level(
    project: Project, variants: tuple[Variant, ...], level: WarmupLevel
) -> dict[str, Rendered]:
    locks = read_committed(variants, project.generated)
    found: dict[str, Rendered] = {}
    for variant in variants:
        lock = locks[variant.name]
        if not isinstance(lock, Lock):
            raise lock
        changed = dataclasses.replace(variant, level=level)
        found[variant.name] = render.render(changed, lock)
    return found


def _build(project: Project, prepared: Mapping[str, Rendered]) -> dict[str, str]:
    target = LocalTarget()

    def build(one: Rendered) -> str:
        with Log(project.state / "logs" / one.variant.name, target=target.name) as log:
            name = one.variant.name
            with target.claimed(name):
                built = target.build(
                    BuildInput(rendered=one, folder=Path()), report=discard, log=log
                )
                fields = {"digest": built.digest}
                target.publish(Publication(name=name, fields=fields, channel="stable"))
            return built.ref

    with ThreadPoolExecutor(max_workers=target.jobs) as pool:  # as the command, when nobody says
        refs = pool.map(build, prepared.values())
        return dict(zip(prepared, refs, strict=True))


if __name__ == "__main__":
    main()
