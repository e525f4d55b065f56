"""How two builds differ, or a build and the spec as it is now. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from builder.flatten import Program
from builder.plan import step_keys_of
from builder.record import contents_of
from builder.registry import Record
from builder.render import Rendered

__all__ = ["Difference", "Side", "compare", "side_of_build", "side_of_spec"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """One of the two: `label` is its name for people, `fields` what a record of it holds.

    Of a spec nothing was measured, and its packages are those of its lock.
    """

    label: str
    fields: Mapping[str, Any]
    built: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One thing that differs: in what (`packages`, `env`, …), which, and its value on each side;
    None is not there."""

    kind: str
    what: str
    old: str | None
    new: str | None

    def to_json(self) -> dict[str, str | None]:
        """The difference as plain values."""
        return {"kind": self.kind, "what": self.what, "old": self.old, "new": self.new}


def side_of_build(found: Record, fields: Mapping[str, Any] | None = None) -> Side:
    """A recorded build; `fields` are its record with more than that holds."""
    return Side(label=found.ref, fields=found.fields if fields is None else fields, built=True)


def side_of_spec(rendered: Rendered, program: Program | None) -> Side:
    """The spec and lock as they are now; `program` is its steps on E2B."""
    steps = list(step_keys_of(rendered, program)) if program else []
    fields = contents_of(rendered) | {"steps": steps}
    return Side(label=f"the spec of {rendered.variant.name}", fields=fields, built=False)


def compare(old: Side, new: Side) -> list[Difference]:
    """Everything that differs, in the order: base, packages, environment, spec, steps, measures."""
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
    base = side.fields.get("base_image")
    return {"base image": str(base)} if base else {}


def _packages(side: Side, other: Side) -> Mapping[str, str]:
    if not (side.built and other.built):  # a lock holds nothing of what else is in a sandbox
        locked: Mapping[str, str] = side.fields.get("inputs", {}).get("packages", {})
        return locked
    return {**side.fields.get("other_packages", {}), **side.fields.get("packages", {})}


def _env(side: Side, _other: Side) -> dict[str, str]:
    return {key: str(value) for key, value in side.fields.get("env", {}).items()}


def _spec(side: Side, _other: Side) -> dict[str, str]:
    spec = side.fields.get("inputs", {}).get("spec", {})
    return {key: value for key, value in spec.items() if not key.startswith("env.")}


def _steps(side: Side, other: Side) -> dict[str, str]:
    mine, theirs = side.fields.get("steps", []), other.fields.get("steps", [])
    if not mine or not theirs or mine == theirs:
        return {}
    same = 0
    while same < min(len(mine), len(theirs)) and mine[same] == theirs[same]:
        same += 1
    return {"steps on E2B": f"{len(mine)}, the first {same} the same"}


def _files(side: Side, _other: Side) -> dict[str, str]:
    files = side.fields.get("inputs", {}).get("files", {})
    return {path: f"sha256:{digest[:12]}" for path, digest in files.items()}


def _measures(side: Side, other: Side) -> dict[str, str]:
    if not (side.built and other.built):
        return {}
    found = {}
    if size := side.fields.get("size_bytes"):
        found["size"] = f"{size / 2**20:.1f} MiB"
    seconds = side.fields.get("verified", {}).get("seconds", {})
    for key in ("build", "sandbox", "warm_sandbox"):
        if isinstance(seconds.get(key), int | float):
            found[f"seconds: {key.replace('_', ' ')}"] = f"{seconds[key]:.3f}"
    for level, imports in seconds.get("first_use", {}).items():
        found[f"first use, {level}"] = f"{sum(imports.values()) * 1000:.1f} ms"
    return found


_TABLES = (
    ("base", _base),
    ("package", _packages),
    ("env", _env),
    ("spec", _spec),
    ("steps", _steps),
    ("file", _files),
    ("measure", _measures),
)
