"""A plan and its inputs: values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from builder.registry import Digest, Ref
from builder.registry.model import Entry, Hold

if TYPE_CHECKING:
    from builder.flatten import Program
    from builder.render import Rendered

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
        """Return the reason as plain values, with its sentence as `text`."""
        return {
            "kind": self.kind,
            "what": self.subject,
            "old": self.old,
            "new": self.new,
            "text": str(self),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Drift:
    """How a target differs from the registry.

    The recorded build is `usable` if only its tags have moved; `elsewhere` means that another
    machine has published.
    """

    text: str
    usable: bool
    elsewhere: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class StateQuery:
    """A variant to look for on a target, with the target's part of its entry in the registry and
    the channel that builds would move."""

    rendered: Rendered
    recorded: Entry
    channel: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetState:
    """The state of one variant on a target: whether its digest is `present`, and which builds (by
    ID) are `usable`; None if all are."""

    present: bool
    drift: Drift | None = None
    usable: frozenset[str] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Situation:
    """The state of a target.

    `present` are the digests of existing builds. By variant: `drift` is the difference from its
    record, `usable` are its usable builds, `unsupported` are features of the spec that the target
    lacks, `blocked` is why it cannot be built, `unaccepted` why it needs consent to its cost.
    `steps_cached` means that the target caches each step, `content_addressed` that equal digests
    are the same build, `this_machine` that builds are files on this machine.
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
    """The action for one variant.

    `ref` is the build that the channel points at, `held` the hold on it, `retag` the recorded build
    of this spec and lock that it should point at. `forced` runs every step, from the base image on.
    `stale_base` describes how the target caches a base image that is not pinned. `fetched` says
    what the build fetches beside packages, and how.

    `files` says what the folders and patterns of `[[files]]` match, `runs` what `[[run]]` runs.

    The first `cached` steps are expected to be cached, by earlier builds (`cached_before`) or by
    another build of this plan (`cached_by`).
    """

    name: str
    action: Action
    reasons: tuple[Reason, ...]
    digest: Digest | None = None
    ref: Ref | None = None
    retag: str | None = None
    held: Hold | None = None
    stages: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    unsupported: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    fetched: tuple[str, ...] = ()
    forced: bool = False
    stale_base: str | None = None
    program: Program | None = None
    step_keys: tuple[str, ...] = ()
    cached: int = 0
    cached_before: int = 0
    cached_by: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the planned variant as plain values."""
        return {
            "name": self.name,
            "action": self.action,
            "reasons": [reason.to_json() for reason in self.reasons],
            "digest": self.digest,
            "ref": self.ref,
            "held": self.held.described() if self.held else None,
            "stages": list(self.stages),
            "files": list(self.files),
            "runs": list(self.runs),
            "not_provided": list(self.unsupported),
            "notes": list(self.notes),
            "fetched": list(self.fetched),
            "stale_base": self.stale_base,
            "program": self.program.to_json() if self.program else None,
            "cached_steps": self.cached,
            "cached_by": self.cached_by,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """All requested variants, sorted by name."""

    target: str
    channel: str
    variants: tuple[PlannedVariant, ...]

    @property
    def something_to_do(self) -> bool:
        """Whether `build` would do something."""
        return any(variant.action not in ("skip", "blocked") for variant in self.variants)

    @property
    def blocked(self) -> dict[str, str]:
        """Return why variants cannot be built, by name."""
        return {v.name: str(v.reasons[0]) for v in self.variants if v.action == "blocked"}

    @property
    def shared(self) -> dict[str, tuple[str, ...]]:
        """Return stage → variants, for stages that several variants share."""
        users: dict[str, list[str]] = {}
        for variant in self.variants:
            for stage in variant.stages:
                users.setdefault(stage, []).append(variant.name)
        return {stage: tuple(names) for stage, names in users.items() if len(names) > 1}

    @property
    def shared_steps(self) -> list[tuple[int, tuple[str, ...]]]:
        """Return (count, variants) for variants with the same first `count` steps, longest last.

        E2B runs such steps, which include the files that they copy, once for all of the variants.
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
        """Return the plan as plain values."""
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
