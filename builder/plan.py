"""What would be done, and why: one action a variant, with reasons that carry both sides.

A pure function of what was rendered, what is recorded and what the target has. It does nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from builder.errors import TemplateError
from builder.flatten import Program, flatten
from builder.registry import DEFAULT_CHANNEL
from builder.render import Rendered

__all__ = ["Action", "Plan", "PlannedVariant", "Reason", "Situation", "inputs_of", "make_plan"]

Action = Literal["build", "skip", "retag", "blocked"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reason:
    """Why an action is taken. `what` is a key, package or file; `old` and `new` are its sides."""

    kind: Literal["state", "spec", "package", "base", "renderer"]
    what: str
    old: str | None = None
    new: str | None = None

    def __str__(self) -> str:
        if self.kind == "state":
            return self.what
        if self.kind == "renderer":
            return f"`{self.what}` is rendered differently"
        subject = self.what if self.kind == "package" else f"`{self.what}`"
        if self.old is None:
            return f"{subject} {self.new} is new" if self.new else f"{subject} is new"
        if self.new is None:
            return f"{subject} {self.old} is gone"
        changed = "" if self.kind == "package" else " changed:"
        return f"{subject}{changed} {self.old} → {self.new}"

    def to_json(self) -> dict[str, str | None]:
        """The reason as plain values, with its sentence as `text`."""
        return {
            "kind": self.kind,
            "what": self.what,
            "old": self.old,
            "new": self.new,
            "text": str(self),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Situation:
    """What the target says of itself.

    `present` are the digests of builds that are there; `lacking` is what it cannot provide of a
    variant (by name), `blocked` why it cannot build one at all.
    """

    target: str
    present: frozenset[str] = frozenset()
    lacking: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    blocked: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedVariant:
    """One variant's action; `ref` is the build that the channel points at now."""

    name: str
    action: Action
    reasons: tuple[Reason, ...]
    digest: str | None
    ref: str | None
    retag: str | None = None
    stages: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    program: Program | None = None
    step_keys: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The planned variant as plain values."""
        return {
            "name": self.name,
            "action": self.action,
            "reasons": [reason.to_json() for reason in self.reasons],
            "digest": self.digest,
            "ref": self.ref,
            "stages": list(self.stages),
            "not_provided": list(self.lacking),
            "notes": list(self.notes),
            "program": self.program.to_json() if self.program else None,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Every variant that was asked for, in the order of their names."""

    target: str
    channel: str
    variants: tuple[PlannedVariant, ...]

    @property
    def something_to_do(self) -> bool:
        """Whether any variant is not simply skipped."""
        return any(variant.action != "skip" for variant in self.variants)

    @property
    def shared(self) -> dict[str, tuple[str, ...]]:
        """Stage → the variants that share it, for stages that more than one has."""
        users: dict[str, list[str]] = {}
        for variant in self.variants:
            for stage in variant.stages:
                users.setdefault(stage, []).append(variant.name)
        return {stage: tuple(names) for stage, names in users.items() if len(names) > 1}

    @property
    def shared_steps(self) -> list[tuple[int, tuple[str, ...]]]:
        """How many first steps are the same, for whom: (count, variants), longest last.

        A step is the same when it is, with all before it and the files it copies: E2B runs such a
        step once for all of them.
        """
        users: dict[tuple[str, ...], list[str]] = {}
        for variant in self.variants:
            for count in range(1, len(variant.step_keys) + 1):
                users.setdefault(variant.step_keys[:count], []).append(variant.name)
        longest: dict[tuple[str, ...], int] = {}
        for keys, names in users.items():
            if len(names) > 1:
                longest[tuple(names)] = max(len(keys), longest.get(tuple(names), 0))
        return sorted((count, names) for names, count in longest.items())

    def to_json(self) -> dict[str, Any]:
        """The plan as plain values."""
        return {
            "target": self.target,
            "channel": self.channel,
            "something_to_do": self.something_to_do,
            "variants": [variant.to_json() for variant in self.variants],
            "shared_stages": {stage: list(names) for stage, names in self.shared.items()},
            "shared_steps": [
                {"steps": count, "variants": list(names)} for count, names in self.shared_steps
            ],
        }


def make_plan(
    variants: Mapping[str, Rendered | TemplateError],
    templates: Mapping[str, Any],
    situation: Situation,
    *,
    channel: str = DEFAULT_CHANNEL,
    force: bool = False,
    programs: bool = True,
) -> Plan:
    """Decide what to do with each of `variants` (by name; an error when it could not be rendered).

    `templates` is the registry's name → target → entry. Without `programs`, the steps of E2B are
    left out. Raises `FlattenError` when a rendered Dockerfile says what E2B cannot do.
    """
    planned = [
        _decide(
            name,
            found,
            templates.get(name, {}).get(situation.target, {}),
            situation,
            channel,
            force,
            programs=programs,
        )
        for name, found in sorted(variants.items())
    ]
    return Plan(target=situation.target, channel=channel, variants=tuple(planned))


def _decide(
    name: str,
    found: Rendered | TemplateError,
    entry: Mapping[str, Any],
    situation: Situation,
    channel: str,
    force: bool,
    *,
    programs: bool,
) -> PlannedVariant:
    builds: Mapping[str, Mapping[str, Any]] = entry.get("builds", {})
    ref = entry.get("channels", {}).get(channel)
    if isinstance(found, TemplateError):
        why = (Reason(kind="state", what=found.message),)
        return PlannedVariant(name=name, action="blocked", reasons=why, digest=None, ref=ref)
    program = _program(found) if programs else None
    action, reasons, retag = _action(name, found, builds, ref, situation, channel, force)
    return PlannedVariant(
        name=name,
        action=action,
        reasons=tuple(reasons),
        digest=found.digest,
        ref=ref,
        retag=retag,
        stages=tuple(stage.stem for stage in found.variant.stages),
        lacking=tuple(situation.lacking.get(name, ())),
        notes=found.lock.notes,
        program=program,
        step_keys=_step_keys(found, program) if program else (),
    )


def _program(found: Rendered) -> Program:
    return flatten(
        found.content("Dockerfile").decode(),
        file=f"generated/{found.variant.name}/Dockerfile",
        files=[file.path for file in found.files],
    )


def _step_keys(found: Rendered, program: Program) -> tuple[str, ...]:
    """A key for each step, of what decides whether E2B has it in its cache but for those before."""
    keys = []
    for step in program.steps:
        content = found.content(step.args[0]) if step.kind == "COPY" else b""
        told = repr((program.base_image, step.kind, step.args, content))
        keys.append(_short_hash(told.encode()))
    return tuple(keys)


def _action(
    name: str,
    found: Rendered,
    builds: Mapping[str, Mapping[str, Any]],
    ref: str | None,
    situation: Situation,
    channel: str,
    force: bool,
) -> tuple[Action, list[Reason], str | None]:
    target = situation.target
    current = builds.get(ref, {}) if ref else {}
    unchanged = bool(ref) and current.get("digest") == found.digest
    there = found.digest in situation.present
    if unchanged and there and not current.get("revoked") and name not in situation.blocked:
        return (
            ("build", [_state("nothing changed, but --force")], None)
            if force
            else ("skip", [_state("nothing changed")], None)
        )
    reasons = _reasons(found, ref, current, target, unchanged=unchanged)
    if name in situation.blocked:
        return "blocked", [_state(situation.blocked[name]), *reasons], None
    if there and not force:
        for other, fields in builds.items():
            if fields.get("digest") == found.digest and not fields.get("revoked"):
                moved = Reason(kind="spec", what=f"channel {channel}", old=ref, new=other)
                return "retag", [*reasons, moved], other
    return "build", reasons, None


def _reasons(
    found: Rendered, ref: str | None, current: Mapping[str, Any], target: str, *, unchanged: bool
) -> list[Reason]:
    if ref is None:
        return [_state(f"never built on {target}")]
    if current.get("origin") == "adopted":
        return [_state("adopted, not built from this spec")]
    if current.get("revoked"):
        return [_state(f"the build is revoked: {current['revoked']}")]
    if unchanged:
        place = "the environment is not on this machine" if target == "local" else None
        return [_state(place or f"the build is not there any more on {target}")]
    return list(_differences(current, inputs_of(found)))


def _state(text: str) -> Reason:
    return Reason(kind="state", what=text)


def inputs_of(rendered: Rendered) -> dict[str, dict[str, str]]:
    """What a build is made of, flat, so that two builds can be compared key by key.

    `spec` by the spec's own keys, `base`, `packages` by distribution, `files` by path (SHA-256).
    """
    variant, lock = rendered.variant, rendered.lock
    spec = {
        "description": variant.description,
        "extends": " → ".join(stage.stem for stage in variant.stages),
        "resources.cpu": str(variant.cpu),
        "resources.memory-mb": str(variant.memory_mb),
        "base.python": variant.python,
        "service.command": " ".join(variant.command),
        "service.ready-url": variant.ready_url or "",
        "warmup.level": variant.level,
        "warmup.imports": ", ".join(variant.imports),
    }
    spec |= {f"env.{name}": value for name, value in variant.env.items()}
    for stage in variant.stages:
        spec[f"{stage.stem}: python.packages"] = ", ".join(stage.requirements)
        spec[f"{stage.stem}: system.packages"] = ", ".join(stage.system)
        for check in stage.checks:
            told = repr((check.code, check.stdout, check.timeout))
            spec[f"{stage.stem}: verify {check.name!r}"] = _short_hash(told.encode())
        for entry in stage.files:
            spec[f"{stage.stem}: file {entry.target}"] = (
                f"{entry.mode} {_short_hash(entry.content)}"
            )
    return {
        "spec": {key: value for key, value in spec.items() if value},
        "base": {"base.image": lock.image.pinned},
        "packages": lock.packages,
        "files": {f.path: hashlib.sha256(f.content).hexdigest() for f in rendered.files},
    }


def _short_hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def _differences(
    recorded: Mapping[str, Any], new: Mapping[str, Mapping[str, str]]
) -> Iterable[Reason]:
    old = recorded.get("inputs", {})
    kinds: Sequence[tuple[Literal["spec", "base", "package"], str]] = (
        ("spec", "spec"),
        ("base", "base"),
        ("package", "packages"),
    )
    found = [
        Reason(kind=kind, what=key, old=old.get(part, {}).get(key), new=new[part].get(key))
        for kind, part in kinds
        for key in sorted({*old.get(part, {}), *new[part]})
        if old.get(part, {}).get(key) != new[part].get(key)
    ]
    if not found:
        before, after = old.get("files", {}), new["files"]
        found = [
            Reason(kind="renderer", what=path)
            for path in sorted({*before, *after})
            if before.get(path) != after.get(path)
        ]
    return found or [Reason(kind="state", what="the recorded build has another digest")]
