"""A plan and what it is made from: values alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from builder.registry import Digest, Ref
from builder.registry.model import Hold

if TYPE_CHECKING:
    from builder.flatten import Program

Action = Literal["build", "skip", "retag", "blocked"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reason:
    """Why an action is taken: `subject` is a key, package or file, `old` and `new` its values."""

    kind: Literal["state", "spec", "package", "base", "renderer"]
    subject: str
    old: str | None = None
    new: str | None = None

    def __str__(self) -> str:
        if self.kind == "state":
            return self.subject
        if self.kind == "renderer":
            return f"`{self.subject}` is rendered differently"
        subject = self.subject if self.kind == "package" else f"`{self.subject}`"
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
            "what": self.subject,
            "old": self.old,
            "new": self.new,
            "text": str(self),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Drift:
    """How a target differs from what was recorded of it: in words, whether the recorded build is
    usable (its tags alone have moved), and whether another machine has published `elsewhere`."""

    text: str
    usable: bool
    elsewhere: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetState:
    """What a look at a target found of one variant: whether its digest is built there, and which
    builds (by ID) of it can be used; None where they need not be told apart."""

    present: bool
    drift: Drift | None = None
    usable: frozenset[str] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Situation:
    """What the target says of itself.

    `present` are the digests of builds that are there; `drift` is what differs from the record of
    a variant (by name), `usable` its builds that can be used, `unsupported` what it cannot provide
    of one, `blocked` why it cannot build one at all, `unaccepted` why it is not to build one before
    somebody has agreed to the cost. `steps_cached` says that the target keeps what
    each step made for the next build, `content_addressed` that what has the same digest is the same
    build, `this_machine` that builds are files of this machine.
    """

    target: str
    present: frozenset[str] = frozenset()
    drift: Mapping[str, Drift] = field(default_factory=dict)
    usable: Mapping[str, frozenset[str]] = field(default_factory=dict)
    steps_cached: bool = False
    content_addressed: bool = False
    this_machine: bool = False
    unsupported: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    blocked: Mapping[str, str] = field(default_factory=dict)
    unaccepted: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedVariant:
    """One variant's action; `ref` is the build that the channel points at now, `held` why builds do
    not move it, `retag` the recorded build of this very spec and lock that it should point at.

    `forced` says that every step is to be run anew, from the base image on. `stale_base` says what
    the target keeps of a base image that is not pinned to a digest.

    Of the steps to build, the first `cached` are expected to come from the target's cache, where
    earlier builds left them (`cached_before`) or another one of this plan does (`cached_by`).
    """

    name: str
    action: Action
    reasons: tuple[Reason, ...]
    digest: Digest | None
    ref: Ref | None
    retag: str | None = None
    held: Hold | None = None
    stages: tuple[str, ...] = ()
    unsupported: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    forced: bool = False
    stale_base: str | None = None
    program: Program | None = None
    step_keys: tuple[str, ...] = ()
    cached: int = 0
    cached_before: int = 0
    cached_by: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The planned variant as plain values."""
        return {
            "name": self.name,
            "action": self.action,
            "reasons": [reason.to_json() for reason in self.reasons],
            "digest": self.digest,
            "ref": self.ref,
            "held": self.held.described() if self.held else None,
            "stages": list(self.stages),
            "not_provided": list(self.unsupported),
            "notes": list(self.notes),
            "stale_base": self.stale_base,
            "program": self.program.to_json() if self.program else None,
            "cached_steps": self.cached,
            "cached_by": self.cached_by,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Every variant that was asked for, in the order of their names."""

    target: str
    channel: str
    variants: tuple[PlannedVariant, ...]

    @property
    def something_to_do(self) -> bool:
        """Whether `build` would do something with any variant."""
        return any(variant.action not in ("skip", "blocked") for variant in self.variants)

    @property
    def blocked(self) -> dict[str, str]:
        """The variants that cannot be built, and why not."""
        return {v.name: str(v.reasons[0]) for v in self.variants if v.action == "blocked"}

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
            "blocked": self.blocked,
            "variants": [variant.to_json() for variant in self.variants],
            "shared_stages": {stage: list(names) for stage, names in self.shared.items()},
            "shared_steps": [
                {"steps": count, "variants": list(names)} for count, names in self.shared_steps
            ],
        }
