"""What a target does with a planned variant: the shape of a builder and of what it has built.

The building itself is in `builder.targets`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from builder.flatten import Program
from builder.render import Rendered
from builder.system.events import Reporter
from builder.system.logs import Log

__all__ = [
    "BuildInput",
    "Builder",
    "Built",
    "Cleaner",
    "Need",
    "Needs",
    "OvertakenError",
    "Tagged",
    "Unused",
]


def _nobody(_steps: int) -> None:
    """Nobody waits for the first steps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildInput:
    """What is to be built.

    For a target that builds in steps: `folder` holds what was rendered, as the context of the
    build; `program` is them and `step_keys` their identities; the first `shared` were put into the
    cache by another build of this run, the first `expected_cached` should come from there, and
    with `require_cache` it is an error when they do not. `passed` is told how many first steps are
    over. `unwanted` are the IDs of builds that must not be taken instead of a new one: they were
    revoked.
    """

    rendered: Rendered
    folder: Path
    force: bool = False
    program: Program | None = None
    step_keys: tuple[str, ...] = ()
    shared: int = 0
    expected_cached: int = 0
    require_cache: bool = False
    unwanted: frozenset[str] = frozenset()
    passed: Callable[[int], None] = _nobody


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """One finished, not yet verified build.

    `seconds` is what making it took; `reused` that it was there already, and then `seconds` is
    what it took when it was made. `cold` is seconds by warm-up import, the first of all, where the
    builder could measure that. `size` is in bytes, None where the target does not tell. `steps`
    are the identities of the steps that it consists of, `cached` how many came from the cache,
    `base_fetched` that the base image did not. `one_of_many` says that other machines make the
    same build, each for itself: then `notes` are what is particular to this one's. `missing` is
    what the spec asks for by name and the target does not provide.
    """

    name: str
    target: str
    ref: str
    template_id: str
    build_id: str
    digest: str
    seconds: float
    reused: bool
    size: int | None
    cold: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    cached: int | None = None
    one_of_many: bool = False
    notes: tuple[str, ...] = ()
    base_fetched: bool = False
    missing: tuple[str, ...] = ()


class OvertakenError(Exception):
    """A target's channel belongs to a newer build: nothing was moved."""

    def __init__(self, channel: str, build_id: str | None) -> None:
        super().__init__(f"channel `{channel}` belongs to build {build_id}, which was begun later")


@dataclass(frozen=True, kw_only=True, slots=True)
class Tagged:
    """A build that a target has, as its tags tell it: `digest` where one of them says it,
    `channels` those that lead to it."""

    ref: str
    template_id: str
    build_id: str
    digest: str | None
    channels: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """Why something is needed by a registry; not `known` where the registry cannot be asked."""

    why: str
    known: bool = True


# Of a registry ("" is the project's own) and a digest: the need for it there, or None.
Needs = Callable[[str, str], Need | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Unused:
    """Something that a target keeps and nothing needs: `identity` is the target's own name for it,
    `size` in bytes (None where it is not told), `why` it is not needed. `kept` is why it stays all
    the same: whether it is needed is not known."""

    kind: str
    identity: str
    subject: str
    size: int | None
    why: str
    kept: str | None = None

    def to_json(self) -> dict[str, Any]:
        """It as plain values."""
        return {
            "kind": self.kind,
            "identity": self.identity,
            "subject": self.subject,
            "size_bytes": self.size,
            "why": self.why,
        }


class Cleaner(Protocol):
    """What keeps what templates were built to: a target, or a Docker engine."""

    def unused(self, templates: Mapping[str, Any], needs: Needs, protect: float) -> list[Unused]:
        """What it keeps and nothing needs, largest first.

        `templates` is what the registry has of this target: name → channels and builds. What was
        used or made within the last `protect` seconds is needed.
        """
        ...

    def remove(self, waste: Unused) -> str | None:
        """Remove what `unused` has found; why not, where it has come into use."""
        ...


class Builder(Protocol):
    """The part of a target that makes builds."""

    def build(self, order: BuildInput, *, report: Reporter, log: Log) -> Built:
        """Make the build, or find it made. Raises `BuildError` and its kin; then nothing is left
        but what the next run can use."""
        ...
