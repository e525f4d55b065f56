"""What registry.json holds, as typed values: the one description of the file.

Reading, checking, writing and the JSON schema follow the classes below. What they do not name is
kept as it was read: a later version may have written it. A look-up does without this module, as
long as what it looks up is as it was recorded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass
from typing import Any, Literal, get_args

from builder.errors import RegistryError
from builder.registry.identity import Digest, Ref
from builder.registry.tables import Table, WrongValueError, key, table_schema
from builder.registry.values import VERSION, in_effect

Action = Literal[
    "adopt", "build", "promote", "remove", "repair", "restore", "revoke", "rollback", "unhold"
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Revocation(Table):
    """Why, when and by whom a build was taken out of use; `start` is from when on, else at once."""

    reason: str
    at: str | None = key()
    by: str | None = key()
    start: str | None = key(key="from", listed=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class ContentRevocation(Revocation):
    """The revocation of all builds that contain `what`: a package, a base image or a stage."""

    what: str
    at: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Hold(Table):
    """A rollback that a channel stands at: since when, by whom, and why."""

    at: str
    by: str
    reason: str | None = key()

    def __str__(self) -> str:
        return f"held since {self.at} by {self.by}" + (f": {self.reason}" if self.reason else "")

    def described(self) -> dict[str, str | None]:
        """The hold as plain values, for output."""
        return {"at": self.at, "by": self.by, "reason": self.reason}


@dataclass(frozen=True, kw_only=True, slots=True)
class Check(Table):
    """A check of the spec's own, to be run again."""

    source: str
    name: str
    code: str
    stdout: str | None = key(nullable=True)
    timeout: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance(Table):
    """Where a build comes from."""

    commit: str | None = key()
    dirty: bool | None = key("the specs differed from it")
    renderer: str | None = key()
    lock: str | None = key()


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources(Table):
    """What a sandbox has."""

    cpu: int | None = key()
    memory_mb: int | None = key()


@dataclass(frozen=True, kw_only=True, slots=True)
class Warmup(Table):
    """What is imported before a sandbox is handed out."""

    level: str = key(default="none")
    imports: tuple[str, ...] = key(default=())


@dataclass(frozen=True, kw_only=True, slots=True)
class Seconds(Table):
    """How long a build and its sandboxes took; `first_use` by warm-up level and import."""

    build: float | None = key(nullable=True)
    sandbox: float | None = key(nullable=True)
    warm_sandbox: float | None = key(nullable=True)
    first_use: Mapping[str, Mapping[str, float]] = key(default=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verified(Table):
    """What was checked of a build before it was recorded."""

    checks: tuple[str, ...] = key(default=())
    seconds: Seconds | None = key()


@dataclass(frozen=True, kw_only=True, slots=True)
class Build(Table):
    """One build; unknown fields are kept."""

    template_id: str | None = key(expected=True)
    build_id: str | None = key()
    origin: str = key(default="built", expected=True, schema={"enum": ["built", "adopted"]})
    digest: Digest | None = key(schema={"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"})
    base_image: str | None = key()
    packages: Mapping[str, str] = key(default=dict)
    built_at: str | None = key(schema={"type": "string", "format": "date-time"})
    steps: tuple[str, ...] = key(
        "identities of the steps, for a target that caches them", default=()
    )
    base_fetched: bool | None = key("that E2B did not have the base image in its cache")
    other_packages: Mapping[str, str] = key(default=dict)
    stages: Mapping[str, Digest] = key(
        "stage → sha256:… of what it and its parents declare", default=dict
    )
    stages_algorithm: int | None = key(
        "of `stages`: 1, or absent, left out [env], [service], [resources]"
    )
    provenance: Provenance | None = key()
    checks: tuple[Check, ...] | None = key("the spec's own checks, to be run again")
    revoked: str | None = key("why it must not be used any more")
    revoked_at: str | None = key("from when on, in UTC")
    revocations: Mapping[str, Revocation] = key(
        "`build`, or what it contains → reason, at, by",
        default=dict,
        schema={"type": "object", "additionalProperties": {"type": "object"}},
    )
    checksum: str | None = key("sha256:… of this record without it")
    warnings: tuple[str, ...] = key(default=())
    checked_at: str | None = key(listed=False)
    note: str | None = key(listed=False)
    size_bytes: int | None = key(listed=False)
    env: Mapping[str, str] = key(default=dict, listed=False)
    inputs: Mapping[str, Mapping[str, str]] = key(default=dict, listed=False)
    resources: Resources | None = key(listed=False)
    warmup: Warmup = key(default=Warmup, listed=False)
    verified: Verified | None = key(listed=False)

    @property
    def is_revoked(self) -> bool:
        """Whether it must not be used any more; a revocation that is still to come has no effect
        yet."""
        return in_effect(self.revoked, self.revoked_at) is not None

    @property
    def revoked_since(self) -> str | None:
        """Since when, or from when on, it is revoked (UTC); None where that is not recorded."""
        if self.revoked_at is not None:
            return self.revoked_at
        # Without a date of its own, a revocation has had effect since somebody made it.
        marks = self.revocations.values()
        return min((mark.at for mark in marks if mark.at and mark.start is None), default=None)

    @property
    def revocation(self) -> str:
        """What is said of it where it is revoked, or is to be:
        `revoked as of 2026-11-23T07:49:55Z: leaks memory`."""
        since = self.revoked_since
        return f"revoked{f' as of {since}' if since else ''}: {self.revoked}"

    @property
    def is_adopted(self) -> bool:
        """Whether it was not built by this program."""
        return self.origin == "adopted"

    @property
    def is_verified(self) -> bool:
        """Whether it has passed its checks."""
        return self.verified is not None and bool(self.verified.to_json())

    @property
    def seconds(self) -> Seconds:
        """How long it and its sandboxes took, as far as that is recorded."""
        return (self.verified and self.verified.seconds) or Seconds()


@dataclass(frozen=True, kw_only=True, slots=True)
class Event(Table):
    """One change; `chain` is sha256:… of the one before it and of this one."""

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
    """A channel of a template on one target: the ref that it points at, the build that this is,
    and the hold that it is on; None for what there is not."""

    name: str
    ref: Ref | None
    build: Build | None
    hold: Hold | None

    @property
    def usable(self) -> Build | None:
        """The build that it points at, unless that is revoked."""
        return None if self.build is None or self.build.is_revoked else self.build


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry(Table):
    """What is recorded of a template on one target."""

    channels: dict[str, Ref] = key(
        "channel → the ref of one of the builds", default=dict, expected=True
    )
    builds: dict[str, Build] = key(default=dict, expected=True)
    holds: dict[str, Hold] = key(
        "channel → the rollback that it stands at: builds do not move it", default=dict
    )
    history: list[Event] = key(default=list)

    def channel(self, name: str) -> Channel:
        """What is known of a channel, which need not be there."""
        ref = self.channels.get(name)
        build = None if ref is None else self.builds.get(ref)
        return Channel(name=name, ref=ref, build=build, hold=self.holds.get(name))


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents(Table):
    """Template name → target → channels and builds."""

    version: int = key(default=MISSING, expected=True, schema={"const": VERSION})
    changes: list[str] = key("in an object store: identities of the latest changes", default=list)
    revocations: list[ContentRevocation] = key("what no build may contain", default=list)
    templates: dict[str, dict[str, Entry]]

    def entry(self, name: str, target: str) -> Entry:
        """What is recorded of a template on one target: nothing where it is not there."""
        return self.templates.get(name, {}).get(target) or Entry()

    def new_entry(self, name: str, target: str) -> Entry:
        """The same, put in where it is not there."""
        return self.templates.setdefault(name, {}).setdefault(target, Entry())


def contents(data: object, *, path: str) -> Contents:
    """The typed form of a registry's data. Raises `RegistryError` for the first wrong value."""
    try:
        return Contents.from_json(data)
    except WrongValueError as error:
        raise RegistryError(
            f"{path}: {_worded(error.keys, error.problem)}", hint="restore the file from git"
        ) from error


def schema() -> dict[str, Any]:
    """The JSON schema of the file."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "registry.json",
        **table_schema(Contents),
    }


def _worded(keys: tuple[str | int, ...], problem: str) -> str:
    """A wrong value in words: where it is, and what is wrong with it."""
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
