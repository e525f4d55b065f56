"""The parts of a target by purpose: building, opening, publishing and cleaning up.

A part that a target lacks is None, or a property says so.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from builder.plan import StateQuery, TargetState
from builder.registry import Digest, Ref
from builder.registry.model import Build, Entry
from builder.render import Rendered
from builder.sandbox.network import Network
from builder.sandbox.session import Sandbox
from builder.spec import Variant
from builder.system.events import Reporter
from builder.system.logs import Log

if TYPE_CHECKING:
    from builder.flatten import Program
    from builder.targets.journal import Journal


def _discard(_steps: int) -> None:
    """Discard the number of steps that are over."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildInput:
    """The input of a build.

    `folder` contains the rendered files, as the build context. For a target that builds in steps,
    `program` has the steps and `step_keys` their identities. Another build of this run put the
    first `shared` steps into the cache; the first `expected_cached` should come from there, which
    `require_cache` makes a condition. `passed` is called with how many steps are over. `unwanted`
    are the IDs of revoked builds, which must not be used again.
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
    passed: Callable[[int], None] = _discard


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """A finished build that is not verified yet.

    `seconds` is how long it took, even if this run `reused` it. `cold` is the time of each module's
    first import in seconds, if the builder could measure it. `size` is in bytes, None if unknown.
    `steps` are the identities of its steps, `cached` how many came from the cache; `base_fetched`
    means that the base image did not. If it is `one_of_many`, other machines make the same build
    for themselves, and `notes` apply to this machine's only. `missing` are features of the spec
    that the target lacks. `folder` is where the build is on this machine, or None.
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
    """A sandbox to open, of the build `ref` of template `name`.

    The modules of `warm` are imported and the variables of `env` are set. The interpreter of a
    `cold` one has imported nothing, even if the build has a warm one. Without a code service of the
    build, the sandbox's `python3` runs code on E2B. `network` None is the target's default. `cpu`
    and `memory_mb` are the spec's, if known.
    """

    ref: str
    name: str
    warm: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    cold: bool = False
    has_code_service: bool = True
    network: Network | None = None
    cpu: int | None = None
    memory_mb: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Publication:
    """A verified build of template `name` to publish on a channel of the target, if any.

    The builds whose IDs are in `over` give way even if they are newer; None means all builds.
    """

    name: str
    build: Build
    channel: str | None
    over: Collection[str] | None = frozenset()


class OvertakenError(Exception):
    """A target's channel belongs to a newer build, so nothing was moved."""

    def __init__(self, channel: str, build_id: str | None) -> None:
        super().__init__(f"channel `{channel}` points at build {build_id}, which was started later")


@dataclass(frozen=True, kw_only=True, slots=True)
class Tagged:
    """A build on a target, by its tags: its digest, if they name one, and its channels.

    Its `published` channels were moved to it by this program, on whatever machine.
    """

    ref: Ref
    template_id: str
    build_id: str
    digest: Digest | None
    channels: tuple[str, ...]
    published: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """Why a registry needs something; not `known` if the registry cannot be read."""

    why: str
    known: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """What is needed of a target.

    `templates` are its entries in the registry, by name. `of` returns the need for a digest in a
    registry ("" is the project's own), if any. Everything used or made within the last
    `protect_seconds` is needed, too.
    """

    templates: Mapping[str, Entry]
    of: Callable[[str, str], Need | None]
    protect_seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Unused:
    """Something that a target keeps and nothing needs.

    `identity` is the target's name for it, `size` is in bytes (None if unknown), `why` is why it is
    not needed. `kept` is why it is kept anyway: it may be needed.
    """

    kind: str
    identity: str
    subject: str
    size: int | None
    why: str
    kept: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "kind": self.kind,
            "identity": self.identity,
            "subject": self.subject,
            "size_bytes": self.size,
            "why": self.why,
        }


class Claims(Protocol):
    """What building, opening and publishing have in common; `name` is the target's."""

    name: str

    def claimed(self, name: str) -> AbstractContextManager[None]:
        """Keep others from the template `name` during the `with` block, if the target needs it."""


class Builder(Claims, Protocol):
    """The part of a target that makes builds, sensibly up to `jobs` at a time.

    With `steps_cached` it builds in steps and caches each. With `content_addressed`, the same
    digest is the same build, with the same ref. With `this_machine`, builds are files on this
    machine, which others do not have.
    """

    steps_cached: bool
    content_addressed: bool
    this_machine: bool
    jobs: int

    @property
    def journal(self) -> Journal | None:
        """The journal of running builds, or None if no build outlives its run."""

    def look(self, query: StateQuery) -> TargetState:
        """Return the state of a variant on the target."""

    def unsupported(self, variant: Variant) -> tuple[str, ...]:
        """Return the features of the variant that this target cannot provide, in words."""

    def blocked(self, variant: Variant) -> str | None:
        """Return why this target cannot build the variant at all, or None."""

    def build(self, order: BuildInput, *, report: Reporter, log: Log) -> Built:
        """Make the build, or find it, with the template claimed.

        Raises `BuildError` and the like, and leaves only what the next run can use.
        """

    def tidy(self) -> None:
        """Remove what killed runs left."""


class Opener(Claims, Protocol):
    """The part of a target that opens sandboxes. With `starts_services`, the service of the spec
    runs in them."""

    starts_services: bool

    def open(self, opening: Opening) -> Sandbox:
        """Open a sandbox. Raises `SandboxError`, `NotOnThisMachineError`."""

    @property
    def changes(self) -> Callable[[str], Sequence[str]] | None:
        """Return the changes in a build since it was made, in words; None if builds cannot change.
        Raises `StorageError`."""

    @property
    def copies(self) -> Callable[[Opening], Generator[Sandbox, None, None]] | None:
        """Yield two sandboxes, one after the other, whose interpreters are copies of one warm one,
        or fewer if there are none. None if all sandboxes of a build are copies."""


class Inventory(Protocol):
    """The templates on a target, by the tags that it keeps."""

    def examine(self, ref: str) -> str:
        """Return the ID of a template that was not built here, named by `ID` or `ID:build`.

        Raises `BuildError` if it cannot start sandboxes.
        """

    def tagged(self, name: str) -> list[Tagged]:
        """Return the builds of template `name` on the target that have a tag."""

    def withdraw(
        self, name: str, builds: Sequence[Build], *, channels: Mapping[str, Build]
    ) -> str | None:
        """Remove what `publish` moved to `builds`, and `channels` from their builds; return a note
        on what stays, if anything does."""


class Publisher(Claims, Protocol):
    """The part of a target that lets applications find a verified build."""

    @property
    def inventory(self) -> Inventory | None:
        """The templates by the target's own tags; None if only the registry has channels."""

    def publish(self, publication: Publication) -> Callable[[], None] | None:
        """Publish a build; return a function that undoes it, if anything was done.

        Raises `OvertakenError` if a newer build has the channel, `BuildError` and the like, with
        everything as it was.
        """


class Cleaner(Protocol):
    """Something that keeps builds: a target, or a Docker engine."""

    def unused(self, needs: Needs) -> list[Unused]:
        """Return the items that nothing needs, largest first."""

    def remove(self, waste: Unused) -> str | None:
        """Remove something `unused`; return why not if it is in use again."""


class Target(Builder, Opener, Publisher, Cleaner, Protocol):
    """All parts of a target."""

    @property
    def account(self) -> Callable[[], str] | None:
        """Look up the account and return its description; None if the target needs none.

        Raises `TargetUnavailableError` if the key is refused, `NetworkError`, `LimitError` and
        `BuildError`.
        """
