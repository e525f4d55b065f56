"""The model of registry.json: the one description of the file.

Reading, checking, writing and the JSON schema follow from the classes below. Unknown keys are kept:
a later version may have written them. A look-up of an unchanged record does not load this module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass
from typing import Any, Literal, get_args

from builder.errors import RegistryError
from builder.registry.identity import Digest, Ref
from builder.registry.tables import Table, WrongValueError, key, table_schema
from builder.registry.values import VERSION, in_effect
from builder.sandbox.network import Network

Action = Literal[
    "adopt", "build", "promote", "remove", "repair", "restore", "revoke", "rollback", "unhold"
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Revocation(Table):
    """Why, when and by whom a build was revoked; it takes effect at `start`, or at once."""

    reason: str
    at: str | None = key()
    by: str | None = key()
    start: str | None = key(key="from", listed=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class ContentRevocation(Revocation):
    """The revocation of all builds that contain `what`: a package, base image or stage."""

    what: str
    at: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Hold(Table):
    """The hold that a rollback puts on a channel: since when, by whom, and why."""

    at: str
    by: str
    reason: str | None = key()

    def __str__(self) -> str:
        return f"held since {self.at} by {self.by}" + (f": {self.reason}" if self.reason else "")

    def described(self) -> dict[str, str | None]:
        """Return the hold as plain values, for output."""
        return {"at": self.at, "by": self.by, "reason": self.reason}


@dataclass(frozen=True, kw_only=True, slots=True)
class HttpRequest(Table):
    """A request of a service in the sandbox."""

    url: str
    status: int
    contains: str | None = key(nullable=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Check(Table):
    """A `[[verify]]` test of the spec, kept so that it can run again."""

    source: str
    name: str
    code: str = key(
        "Python code; empty if there is a command or request", default="", expected=True
    )
    command: str | None = key("command for the shell")
    exit_code: int | None = key("expected exit code of the command")
    http: HttpRequest | None = key("request of a service")
    stdout: str | None = key(nullable=True)
    timeout: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance(Table):
    """What a build was made from."""

    commit: str | None = key()
    dirty: bool | None = key("whether the specs differed from the commit")
    renderer: str | None = key()
    lock: str | None = key()


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources(Table):
    """The resources of a sandbox."""

    cpu: int | None = key()
    memory_mb: int | None = key()


@dataclass(frozen=True, kw_only=True, slots=True)
class Warmup(Table):
    """The warm-up of a sandbox: modules that it has already imported."""

    level: str = key(default="none")
    imports: tuple[str, ...] = key(default=())


@dataclass(frozen=True, kw_only=True, slots=True)
class Seconds(Table):
    """Measured times; `first_use` is by warm-up level and import."""

    build: float | None = key(nullable=True)
    sandbox: float | None = key(nullable=True)
    warm_sandbox: float | None = key(nullable=True)
    first_use: Mapping[str, Mapping[str, float]] = key(default=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verified(Table):
    """The verification that a build passed."""

    checks: tuple[str, ...] = key(default=())
    seconds: Seconds | None = key()


@dataclass(frozen=True, kw_only=True, slots=True)
class Build(Table):
    """One build. Unknown keys are kept."""

    template_id: str | None = key(expected=True)
    build_id: str | None = key()
    origin: str = key(default="built", expected=True, schema={"enum": ["built", "adopted"]})
    digest: Digest | None = key(schema={"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"})
    base_image: str | None = key()
    from_template: Ref | None = key("ref of the build that it was built on")
    packages: Mapping[str, str] = key(default=dict)
    built_at: str | None = key(schema={"type": "string", "format": "date-time"})
    steps: tuple[str, ...] = key(
        "identities of the steps, on a target that caches them", default=()
    )
    base_fetched: bool | None = key("whether E2B had to fetch the base image")
    other_packages: Mapping[str, str] = key(default=dict)
    stages: Mapping[str, Digest] = key(
        "stage → sha256:… of what it and its parents declare", default=dict
    )
    stages_algorithm: int | None = key(
        "version of the digests in `stages`; 1 (default) leaves out [env], [service], [resources]"
    )
    provenance: Provenance | None = key()
    checks: tuple[Check, ...] | None = key("the `[[verify]]` tests of the spec, to be run again")
    revoked: str | None = key("why it was revoked")
    revoked_at: str | None = key("when the revocation takes effect, in UTC")
    revocations: Mapping[str, Revocation] = key(
        "`build` or the revoked content → reason, at, by",
        default=dict,
        schema={"type": "object", "additionalProperties": {"type": "object"}},
    )
    checksum: str | None = key("sha256:… of this record without this key")
    warnings: tuple[str, ...] = key(default=())
    checked_at: str | None = key(listed=False)
    note: str | None = key(listed=False)
    size_bytes: int | None = key(listed=False)
    env: Mapping[str, str] = key(default=dict, listed=False)
    inputs: Mapping[str, Mapping[str, str]] = key(default=dict, listed=False)
    resources: Resources | None = key(listed=False)
    warmup: Warmup = key(default=Warmup, listed=False)
    verified: Verified | None = key(listed=False)
    network: Network | None = key("hosts that its sandboxes may reach; by default the target's")
    runs_code: bool = key(
        "false if its service is not E2B's code service: nothing runs code in its sandboxes there",
        default=True,
    )

    @property
    def is_revoked(self) -> bool:
        """Whether a revocation of it is in effect."""
        return in_effect(self.revoked, self.revoked_at) is not None

    @property
    def revoked_since(self) -> str | None:
        """The time (UTC) at which its revocation takes effect; None if not recorded."""
        if self.revoked_at is not None:
            return self.revoked_at
        # A revocation without a start has been in effect since it was made.
        marks = self.revocations.values()
        return min((mark.at for mark in marks if mark.at and mark.start is None), default=None)

    @property
    def revocation(self) -> str:
        """Its revocation in words: `revoked as of 2026-11-23T07:49:55Z: leaks memory`."""
        since = self.revoked_since
        return f"revoked{f' as of {since}' if since else ''}: {self.revoked}"

    @property
    def is_adopted(self) -> bool:
        """Whether it was adopted, not built by template-builder."""
        return self.origin == "adopted"

    @property
    def is_verified(self) -> bool:
        """Whether its verification is recorded."""
        return self.verified is not None and bool(self.verified.to_json())

    @property
    def seconds(self) -> Seconds:
        """The recorded times."""
        return (self.verified and self.verified.seconds) or Seconds()


@dataclass(frozen=True, kw_only=True, slots=True)
class Event(Table):
    """One change; `chain` is sha256:… of the previous `chain` and this event."""

    action: str | None = key(expected=True, schema={"enum": list(get_args(Action))})
    at: str | None = key(expected=True)
    by: str | None = key(expected=True)
    channel: str | None = key(nullable=True, schema={"type": "string"})
    before: Ref | None = key(key="from", nullable=True)
    to: Ref | None = key(nullable=True)
    build: Ref | None = key()
    record: str | None = key()
    reason: str | None = key()
    chain: str | None = key(expected=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Channel:
    """A channel of a template on one target: the ref and build that it points at, and its hold."""

    name: str
    ref: Ref | None
    build: Build | None
    hold: Hold | None

    @property
    def usable(self) -> Build | None:
        """The build that it points at, unless revoked."""
        return None if self.build is None or self.build.is_revoked else self.build


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry(Table):
    """The records of a template on one target."""

    channels: dict[str, Ref] = key(
        "channel → ref of the build that it points at", default=dict, expected=True
    )
    builds: dict[str, Build] = key(default=dict, expected=True)
    holds: dict[str, Hold] = key(
        "channel → the hold that keeps builds from moving it", default=dict
    )
    history: list[Event] = key(default=list)

    def channel(self, name: str) -> Channel:
        """Return the channel `name`, which may not exist."""
        ref = self.channels.get(name)
        build = None if ref is None else self.builds.get(ref)
        return Channel(name=name, ref=ref, build=build, hold=self.holds.get(name))


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents(Table):
    """Template name → target → channels and builds."""

    version: int = key(default=MISSING, expected=True, schema={"const": VERSION})
    changes: list[str] = key("in an object store: IDs of the latest changes", default=list)
    revocations: list[ContentRevocation] = key("content that no build may have", default=list)
    templates: dict[str, dict[str, Entry]]

    def entry(self, name: str, target: str) -> Entry:
        """Return the records of a template on one target; empty if there are none."""
        return self.templates.get(name, {}).get(target) or Entry()

    def new_entry(self, name: str, target: str) -> Entry:
        """Return the records of a template on one target; add an empty entry if missing."""
        return self.templates.setdefault(name, {}).setdefault(target, Entry())


def contents(data: object, *, path: str) -> Contents:
    """Return a registry's data with types. Raise `RegistryError` for the first wrong value."""
    try:
        return Contents.from_json(data)
    except WrongValueError as error:
        raise RegistryError(
            f"{path}: {_worded(error.keys, error.problem)}", hint="restore the file from git"
        ) from error


def schema() -> dict[str, Any]:
    """Return the JSON schema of the file."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "registry.json",
        **table_schema(Contents),
    }


def _worded(keys: tuple[str | int, ...], problem: str) -> str:
    """Say where a wrong value is, and what is wrong with it."""
    if keys[0] != "templates":
        return f"`{_dotted(keys)}` {problem}"
    _, name, *inner = keys
    if len(inner) < 2:
        return f"the entry of template `{name}` is not a table of targets"
    target, part, *rest = inner
    subject = None
    if rest:
        subject = {
            "channels": f"channel `{rest[0]}`" if len(rest) == 1 else None,
            "builds": f"build `{rest[0]}`",
            "history": f"event {rest[0]} of the history",
            "holds": f"the hold on channel `{rest[0]}`",
        }.get(str(part))
    if subject is None:
        subject = f"`{_dotted((part, *rest))}`"
    elif len(rest) > 1:
        subject = f"`{_dotted(rest[1:])}` of {subject}"
    return f"{subject} of template `{name}` on `{target}` {problem}"


def _dotted(keys: Sequence[str | int]) -> str:
    path = ""
    for part in keys:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path
