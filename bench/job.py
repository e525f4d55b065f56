"""How long a job waits until its imports are done, with a template and without one.

Without: a new environment, the packages of the spec and the first import, by pip and by uv. With: a
sandbox of a template that was built before, at each warm-up level.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.child import ChildError, answer, timed
from bench.options import Options
from bench.result import Result, Target, ratio, seconds
from bench.turns import take_turns
from bench.workshop import Workshop
from builder import workflow
from builder.project import Project
from builder.spec import Variant
from builder.system import uv
from builder.system.files import remove_tree
from builder.targets.local import interpreter

__all__ = ["PIP", "UV", "Wait", "measure", "sandboxes", "variant_of", "without_template"]

_ROUNDS = 3
PIP = "pip install, nothing cached"
UV = "uv pip install, uv's cache warm"
_PLAIN_PROCESS = (
    "Without a template `sandbox up` is `python -m venv` or `uv venv`, and the first import is that"
    " of a plain process, which flatters it: a sandbox would start a kernel, too. How long a"
    " download takes is the index's doing: the first two rows differ by that."
)
_NONE_AND_DISK = (
    "At level `none` no module has made the caches that some make when first imported. A sandbox at"
    " level `disk` has them. Both have byte code, as after pip; plain uv writes none."
)
_MEMORY = (
    "At level `memory` the modules are imported while the sandbox comes up. On `local` that is part"
    " of the wait unless the sandbox was opened before there was a job for it; on a target with"
    " snapshots it happens once, when the template is built."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Wait:
    """Seconds to get a place to run code, to install the packages, and to import them."""

    place: float
    install: float
    first: float

    @property
    def total(self) -> float:
        """Seconds in total."""
        return self.place + self.install + self.first


def measure(options: Options) -> Result:
    """Measure the job of each requested variant in every way."""
    workshop = options.workshop
    rounds = options.rounds or _ROUNDS
    rows: list[tuple[str, ...]] = []
    targets: list[Target] = []
    for stem in options.variants:
        variant = variant_of(workshop, stem)
        measured = take_turns(
            without_template(workshop, variant)
            | {f"template, level {k}": v for k, v in sandboxes(workshop, variant).items()},
            rounds=rounds,
        )
        slowest = median(wait.total for wait in measured[PIP])
        rows += [_row(variant.name, way, waits, slowest) for way, waits in measured.items()]
        ours, pips = (
            median(w.first for w in measured[way]) for way in ("template, level none", PIP)
        )
        what = f"{variant.name}, first imports at level none to pip"
        targets.append(Target(what=what, value=ours / pips, limit=1.1))
    return Result(
        title="job: until the imports have answered",
        measured="What a job waits for on this machine: a place to run code (an environment, or a"
        " sandbox), the packages of the spec in it, and the first import of the spec's warm-up"
        " modules.",
        headings=(
            "template",
            "way",
            "sandbox up",
            "packages installed",
            "first result of the imports",
            "total",
            "ratio to pip",
        ),
        rows=tuple(rows),
        targets=tuple(targets),
        notes=(_PLAIN_PROCESS, _NONE_AND_DISK, _MEMORY),
    )


def _row(name: str, way: str, waits: list[Wait], slowest: float) -> tuple[str, ...]:
    install = median(wait.install for wait in waits)
    total = median(wait.total for wait in waits)
    return (
        f"`{name}`",
        way,
        seconds(median(wait.place for wait in waits)),
        seconds(install) if install else "-",
        seconds(median(wait.first for wait in waits)),
        seconds(total),
        ratio(total / slowest),
    )


def variant_of(workshop: Workshop, stem: str) -> Variant:
    """Return a variant of the copied project. Raises `ChildError`."""
    variants = workflow.variants_called(Project.find(workshop.project), [])
    by_stem = {variant.stem: variant for variant in variants}
    if stem not in by_stem:
        raise ChildError(f"there is no spec `{stem}`; there are: {', '.join(by_stem)}")
    return by_stem[stem]


def without_template(workshop: Workshop, variant: Variant) -> dict[str, Callable[[], Wait]]:
    """Make an environment, install the packages, and import them."""
    folder = workshop.folder / "job"
    inside = str(folder / "bin" / "python")
    chosen = interpreter.choose(variant.python)
    if chosen is None:
        raise ChildError(f"no Python on this machine satisfies {variant.python}")
    program = uv.binary()
    venv = [chosen, "-m", "venv", str(folder)]
    pip = [inside, "-m", "pip", "install", "--quiet", *variant.requirements]
    uv_venv = [program, "venv", "--quiet", "--no-project", "--python", chosen, str(folder)]
    uv_pip = [program, "pip", "install", "--quiet", "--python", inside, *variant.requirements]
    # A separate cache, filled by the warm-up turn: the user's may hold anything.
    cached = {"PIP_CACHE_DIR": str(workshop.folder / "pip-cache")}

    def wait(make: list[str], install: list[str], extra: dict[str, str]) -> Wait:
        try:
            return Wait(
                place=timed(make),
                install=timed(install, extra=extra),
                first=_first_import(inside, variant, folder / "home"),
            )
        finally:
            remove_tree(folder)

    return {
        PIP: lambda: wait(venv, [*pip, "--no-cache-dir"], {}),
        "pip install, pip's cache warm": lambda: wait(venv, pip, cached),
        UV: lambda: wait(uv_venv, uv_pip, {}),
    }


def _first_import(python: str, variant: Variant, home: Path) -> float:
    # In a new sandbox no module has made the caches that some make when first imported.
    home.mkdir()
    code = f"import {', '.join(variant.imports)}"
    return timed([python, "-c", code], folder=home, extra={"HOME": str(home)})


def sandboxes(workshop: Workshop, variant: Variant) -> dict[str, Callable[[], Wait]]:
    """Measure a sandbox of the template at each warm-up level."""
    workshop.build(variant.name)
    variables = workshop.variables(workshop.cache)
    program = [sys.executable, "-m", "bench.programs.ours", str(workshop.project), variant.name]
    built = answer(program, extra=variables)[variant.name]
    bare = answer([*program, "--level=none"], extra=variables)[variant.name]

    def wait(ref: str, warm: tuple[str, ...]) -> Wait:
        task = {"ref": ref, "warm": warm, "env": dict(variant.env), "imports": variant.imports}
        command = [sys.executable, "-m", "bench.programs.sandbox", json.dumps(task)]
        figures = answer(command, extra=variables)
        return Wait(place=figures["up"], install=0.0, first=figures["first"])

    return {
        "none": lambda: wait(bare, ()),
        "disk": lambda: wait(built, ()),
        "memory": lambda: wait(built, variant.imports),
    }
