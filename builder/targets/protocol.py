"""The parts of a target, each after what it is for: building, opening, publishing, cleaning up.

What a target lacks is a part that is None, or a property that says so.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from builder.plan import TargetState
from builder.registry import Digest, Ref
from builder.registry.model import Build, Entry
from builder.render import Rendered
from builder.sandbox.session import Sandbox
from builder.spec import Variant
from builder.system.events import Reporter
from builder.system.logs import Log

if TYPE_CHECKING:
    from builder.flatten import Program
    from builder.targets.journal import Journal


def _nobody(_steps: int) -> None:
    """Nobody waits for the first steps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StateQuery:
    """The variant that a target is asked about: `recorded` is the target's part of its template in
    the registry, `channel` the one that builds would move."""

    rendered: Rendered
    recorded: Entry
    channel: str


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
    what the spec asks for by name and the target does not provide. `folder` is where it is on this
    machine; None where it is elsewhere.
    """

    name: str
    target: str
    ref: Ref
    template_id: str
    build_id: str
    digest: Digest
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
    folder: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Opening:
    """The sandbox that is to be opened: of the build `ref` of template `name`, the modules of
    `warm` imported already, with the variables of `env`. With `cold`, its interpreter has imported
    nothing, even where the build keeps a warm one."""

    ref: str
    name: str
    warm: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    cold: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Publication:
    """The verified build of template `name` that is to be published.

    `channel` is the target's own that is to point at it, None for none. `over` are the IDs of
    builds that give way though they are newer; None is all.
    """

    name: str
    build: Build
    channel: str | None
    over: Collection[str] | None = frozenset()


class OvertakenError(Exception):
    """A target's channel belongs to a newer build: nothing was moved."""

    def __init__(self, channel: str, build_id: str | None) -> None:
        super().__init__(f"channel `{channel}` belongs to build {build_id}, which was begun later")


@dataclass(frozen=True, kw_only=True, slots=True)
class Tagged:
    """A build that a target has, as its tags tell it: `digest` where one of them says it,
    `channels` those that lead to it."""

    ref: Ref
    template_id: str
    build_id: str
    digest: Digest | None
    channels: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """Why something is needed by a registry; not `known` where the registry cannot be asked."""

    why: str
    known: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """What is needed of a target: `templates` is what the registry has of it (name → channels and
    builds), `of` the need for a digest in a registry ("" is the project's own), if there is one.
    What was used or made within the last `protect_seconds` is needed, too."""

    templates: Mapping[str, Entry]
    of: Callable[[str, str], Need | None]
    protect_seconds: float


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


class Claims(Protocol):
    """What building, opening and publishing have in common; `name` is what the target is called."""

    name: str

    def claimed(self, name: str) -> AbstractContextManager[None]:
        """Keep others from working on the template `name`, for the `with` block, as far as the
        target needs that."""


class Builder(Claims, Protocol):
    """The part of a target that makes builds; `jobs` of them at a time are sensible.

    With `steps_cached` it builds in steps, and keeps what each made for the next build. With
    `content_addressed`, what has the same digest is the same build, with the same ref. With
    `this_machine`, builds are files of this machine, which another one does not have.
    """

    steps_cached: bool
    content_addressed: bool
    this_machine: bool
    jobs: int

    @property
    def journal(self) -> Journal | None:
        """The builds under way that outlive a run that is killed; None where none does."""

    def look(self, query: StateQuery) -> TargetState:
        """What the target has of a variant."""

    def unsupported(self, variant: Variant) -> tuple[str, ...]:
        """What of the variant this target cannot provide, in words."""

    def blocked(self, variant: Variant) -> str | None:
        """Why the variant cannot be built here at all, or None."""

    def build(self, order: BuildInput, *, report: Reporter, log: Log) -> Built:
        """Make the build, or find it made, with the template claimed. Raises `BuildError` and its
        kin; then nothing is left but what the next run can use."""

    def tidy(self) -> None:
        """Remove what runs that were killed have left behind."""


class Opener(Claims, Protocol):
    """The part of a target that opens sandboxes."""

    def open(self, opening: Opening) -> Sandbox:
        """Open a sandbox. Raises `SandboxError`, `NotOnThisMachineError`."""

    @property
    def changes(self) -> Callable[[str], Sequence[str]] | None:
        """What of a build (by its ref) is not as it was made, in words; None where nobody can
        change one. Raises `StorageError`."""

    @property
    def copies(self) -> Callable[[Opening], Generator[Sandbox, None, None]] | None:
        """Two sandboxes, one after the other, whose interpreters are copies of the same warm one;
        fewer where there are no copies. None where all sandboxes of a build are copies of it."""


class Inventory(Protocol):
    """What a target itself can tell of the templates that it has, by their tags."""

    def examine(self, ref: str) -> str:
        """Look for a template that was not built here, `ID` or `ID:build`; its ID.

        Raises `BuildError` when there is none that sandboxes can be created from.
        """

    def tagged(self, name: str) -> list[Tagged]:
        """The builds of template `name` that the target has and tags lead to."""

    def withdraw(
        self, name: str, builds: Sequence[Build], *, channels: Mapping[str, Build]
    ) -> str | None:
        """Let go of what `publish` has moved to `builds`, and of `channels`, with what they pointed
        at; returns what a person should know of what stays."""


class Publisher(Claims, Protocol):
    """The part of a target that has applications find a verified build."""

    @property
    def inventory(self) -> Inventory | None:
        """The templates as the target's own tags tell them; None where the registry alone has
        channels."""

    def publish(self, publication: Publication) -> Callable[[], None] | None:
        """Publish a build; returns what takes that back, if there is something to take back.

        Raises `OvertakenError` where another newer one has the channel, `BuildError` and its kin;
        then all points where it pointed.
        """


class Cleaner(Protocol):
    """What keeps what templates were built to: a target, or a Docker engine."""

    def unused(self, needs: Needs) -> list[Unused]:
        """What it keeps and nothing needs, largest first."""

    def remove(self, waste: Unused) -> str | None:
        """Remove what `unused` has found; why not, where it has come into use."""


class Target(Builder, Opener, Publisher, Cleaner, Protocol):
    """All parts of a target."""

    @property
    def account(self) -> Callable[[], str] | None:
        """Ask the target for the account, and describe it; None where it needs none. Raises
        `TargetUnavailableError` for a key that is refused, `NetworkError`, `LimitError`,
        `BuildError`."""
