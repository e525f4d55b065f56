"""How two builds differ, or a build and the current spec. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from builder.flatten import Program
from builder.plan import step_keys_of
from builder.record import contents_of
from builder.registry import Record
from builder.registry.model import Build
from builder.render import Rendered


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """One side: `label` is its name for users, `build` its record, `built` False for a spec.

    A spec has no measurements, and its packages are those of its lock.
    """

    label: str
    build: Build
    built: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One difference: its kind (`package`, `env`, …), its name, and the value on each side; None
    if missing there."""

    kind: str
    what: str
    old: str | None
    new: str | None


def side_of_build(record: Record, build: Build | None = None) -> Side:
    """Return the side of a recorded build; `build` may add what its record does not hold."""
    return Side(label=record.ref, build=build or record.build, built=True)


def side_of_spec(rendered: Rendered, program: Program | None) -> Side:
    """Return the side of the current spec and lock; `program` are its steps on E2B."""
    steps = step_keys_of(rendered, program) if program else ()
    build = replace(contents_of(rendered), steps=steps)
    return Side(label=f"the spec of {rendered.variant.name}", build=build, built=False)


def compare(old: Side, new: Side) -> list[Difference]:
    """Return all differences, in the order of `_TABLES`."""
    return [
        Difference(kind=kind, what=what, old=before, new=after)
        for kind, table_of in _TABLES
        for what, before, after in _changes(table_of(old, new), table_of(new, old))
    ]


def _changes(
    old: Mapping[str, str], new: Mapping[str, str]
) -> Iterator[tuple[str, str | None, str | None]]:
    for key in sorted({*old, *new}):
        if old.get(key) != new.get(key):
            yield key, old.get(key), new.get(key)


def _base(side: Side, _other: Side) -> dict[str, str]:
    return {"base image": side.build.base_image} if side.build.base_image else {}


def _packages(side: Side, other: Side) -> Mapping[str, str]:
    if not (side.built and other.built):  # a lock does not know the other packages in a sandbox
        return side.build.inputs.get("packages", {})
    return {**side.build.other_packages, **side.build.packages}


def _env(side: Side, _other: Side) -> Mapping[str, str]:
    return side.build.env


def _spec(side: Side, _other: Side) -> dict[str, str]:
    spec = side.build.inputs.get("spec", {})
    return {key: value for key, value in spec.items() if not key.startswith("env.")}


def _steps(side: Side, other: Side) -> dict[str, str]:
    mine, theirs = side.build.steps, other.build.steps
    if not mine or not theirs or mine == theirs:
        return {}
    same = 0
    while same < min(len(mine), len(theirs)) and mine[same] == theirs[same]:
        same += 1
    return {"steps on E2B": f"{len(mine)}, the first {same} the same"}


def _files(side: Side, _other: Side) -> dict[str, str]:
    files = side.build.inputs.get("files", {})
    return {path: f"sha256:{digest[:12]}" for path, digest in files.items()}


def _measures(side: Side, other: Side) -> dict[str, str]:
    if not (side.built and other.built):
        return {}
    measures = {}
    if size := side.build.size_bytes:
        measures["size"] = f"{size / 2**20:.1f} MiB"
    seconds = side.build.seconds
    times = {
        "build": seconds.build,
        "sandbox": seconds.sandbox,
        "warm sandbox": seconds.warm_sandbox,
    }
    measures |= {
        f"seconds: {key}": f"{time:.3f}" for key, time in times.items() if time is not None
    }
    for level, imports in seconds.first_use.items():
        measures[f"first use, {level}"] = f"{sum(imports.values()) * 1000:.1f} ms"
    return measures


_TABLES = (
    ("base", _base),
    ("package", _packages),
    ("env", _env),
    ("spec", _spec),
    ("steps", _steps),
    ("file", _files),
    ("measure", _measures),
)
