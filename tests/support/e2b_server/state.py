"""The server's data: teams, templates, builds, tags, uploaded files and cached layers."""

from __future__ import annotations

import contextlib
import datetime as dt
import random
import re
import string
import threading
import uuid
from dataclasses import dataclass, field, replace
from typing import Any

_IDENTIFIER = re.compile(r"[a-z0-9-_]+")
_TAG = re.compile(r"[a-z0-9-_.]+")
DEFAULT_TAG = "default"
SUPERSEDED = "The build was canceled because it was superseded by a newer one."
CANCELLED = "build was cancelled"
TOO_MANY = (
    "you have reached the maximum number of concurrent template builds ({}). Please wait for existing"
    " builds to complete or contact support if you need more concurrent builds."
)


class ApiError(Exception):
    """A response that is an error."""

    def __init__(self, code: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.headers = code, message, headers or {}


@dataclass
class Team:
    """An account with its key, and what its tier allows."""

    key: str
    slug: str = "team"
    builds_at_a_time: int = 20
    sandboxes_at_a_time: int = 20
    cpu_maximum: int = 8
    memory_maximum_mb: int = 8192
    sandbox_hours: int = 1
    banned: bool = False

    @property
    def id(self) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_OID, self.key))


@dataclass
class Build:
    """One build and its log."""

    id: str
    template_id: str
    team: Team
    cpu: int
    memory_mb: int
    free_disk_mb: int | None
    status: str = "waiting"
    message: str = ""
    step: str | None = None
    log: list[dict[str, Any]] = field(default_factory=list)
    request: dict[str, Any] = field(default_factory=dict)
    canceled: threading.Event = field(default_factory=threading.Event)
    machine: Any = None
    times_started: int = 0
    ended_at: float = 0.0  # of the monotonic clock
    created: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))
    # The start and ready command and the layer that they run in: its own, or those of the template
    # that it is built from.
    start: tuple[str, str, Any] | None = None
    # The build that `fromTemplate` means.
    source: Build | None = None
    # Status, message and step, as cached for the status call, and since when.
    cached: tuple[str, str, str | None] | None = None
    cached_at: float = 0.0  # of the monotonic clock

    def become(self, status: str, message: str = "", step: str | None = None) -> None:
        """Change the status in the database, and have the cache forget it."""
        self.status, self.message, self.step = status, message, step
        self.cached = None

    @property
    def running(self) -> bool:
        return self.status == "building"

    @property
    def active(self) -> bool:
        return self.status in ("waiting", "building")


@dataclass
class Template:
    """A template and its builds."""

    id: str
    name: str
    team: Team
    public: bool = False
    # Whether everybody knows it by its bare name, as `base`, which has no namespace.
    promoted: bool = False
    created: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))
    spawned: list[dt.datetime] = field(default_factory=list)
    builds: list[Build] = field(default_factory=list)
    # (tag, build ID, when), oldest first; the newest assignment of a tag counts.
    tags: list[tuple[str, str, dt.datetime]] = field(default_factory=list)

    def copied(self, team: Team) -> Template:
        """Return a copy for the same team on another server."""
        builds = [
            replace(build, team=team, log=[*build.log], canceled=threading.Event())
            for build in self.builds
        ]
        return replace(self, team=team, spawned=[*self.spawned], builds=builds, tags=[*self.tags])

    def tags_of(self, build_id: str) -> set[str]:
        return {tag for tag, build, _ in self.tags if build == build_id}

    @property
    def full_name(self) -> str:
        return self.name if self.promoted else f"{self.team.slug}/{self.name}"

    def build(self, build_id: str) -> Build | None:
        """Return the build, if it still has a tag."""
        if not self.tags_of(build_id):
            return None
        return next(build for build in self.builds if build.id == build_id)

    def newest(self, tag: str, *, ready: bool) -> tuple[str, str, dt.datetime] | None:
        for entry in reversed(self.tags):
            build = self.build(entry[1])
            if entry[0] == tag and build and (build.status == "ready" or not ready):
                return entry
        return None


class State:
    """All data of the server, under one lock."""

    def __init__(self, teams: list[Team]) -> None:
        self.lock = threading.RLock()
        self.teams = {team.key: team for team in teams}
        self.templates: dict[str, Template] = {}
        self.deleted: dict[str, Template] = {}
        self.files: dict[tuple[str, str], bytes] = {}
        self.layers: dict[tuple[str, str], Any] = {}
        self.executed: list[tuple[str, str]] = []
        # Where the next builds fail: (phase or number of a step, reported step, reason).
        self.failures: list[tuple[str, str | None, str]] = []
        # How long the API takes to notice that a builder has cancelled a build.
        self.poll_seconds = 0.2

    def copy(self, other: State) -> None:
        """Add what was built on another server."""
        self.files |= other.files
        self.layers |= other.layers
        self.executed += other.executed
        for template in other.templates.values():
            self.templates[template.id] = template.copied(self.teams[template.team.key])

    def team(self, key: str | None) -> Team:
        refused = "Invalid API key, please visit https://e2b.dev/docs/api-key for more information."
        if not key:
            raise ApiError(401, "authorization header is missing")
        if not key.startswith("e2b_"):
            raise ApiError(401, "authorization header is malformed")
        if not re.fullmatch(r"e2b_(?:[0-9a-f]{2})+", key):
            raise ApiError(401, f"{refused}\nInvalid API key format")
        if key not in self.teams:
            raise ApiError(401, f"{refused}\nCannot get the team for the given API key")
        if self.teams[key].banned:
            raise ApiError(403, "team is banned")
        return self.teams[key]

    def look_up(self, team: Team, identifier: str) -> Template:
        """Return a template by `namespace/alias`, an alias of the team or without a namespace, or
        the ID of any team's."""
        namespace, slash, alias = identifier.rpartition("/")
        for name in (f"{namespace or team.slug}/{alias}", *([] if slash else [alias])):
            for template in self.templates.values():
                if template.full_name == name:
                    return template
        if not slash and alias in self.templates:
            return self.templates[alias]
        raise ApiError(404, f"template '{identifier}' not found")

    def owned(
        self,
        team: Team,
        reference: str,
        *,
        invalid: str = "Invalid template reference",
        refused: str = "You don't have access to sandbox template '{}'",
    ) -> Template:
        identifier, _ = parse_name(reference, invalid)
        template = self.look_up(team, identifier)
        if template.team is not team:
            raise ApiError(403, refused.format(reference))
        return template

    def by_id(self, team: Team, template_id: str, missing: str, refused: str) -> Template:
        """Return the template with an ID; aliases are refused."""
        template = self.templates.get(template_id)
        if template is None:
            raise ApiError(404, missing)
        if template.team is not team:
            raise ApiError(403, refused)
        return template

    def request_build(self, team: Team, body: dict[str, Any]) -> tuple[Template, Build, list[str]]:
        """Request a build, as `POST /v3/templates` does."""
        text = body.get("name", body.get("alias"))
        if text is None:
            raise ApiError(400, "Name is required")
        identifier, tag = parse_name(text, "Invalid name")
        check_namespace(identifier, team)
        wanted = clean_tags(([tag] if tag else []) + body.get("tags", [])) or [DEFAULT_TAG]
        template = None
        with contextlib.suppress(ApiError):
            known = self.look_up(team, identifier)
            template = known if known.team is team else None
        others = [
            build
            for other in self.templates.values()
            for build in other.builds
            if other.team is team
            and build.active
            and not (other is template and other.tags_of(build.id) & set(wanted))
        ]
        if len(others) >= team.builds_at_a_time:
            raise ApiError(429, TOO_MANY.format(team.builds_at_a_time))
        cpu, memory = checked_size(team, body)
        alias = identifier.rpartition("/")[2]
        if alias in self.templates or alias in self.deleted:
            raise ApiError(409, f"Alias '{alias}' is already used")
        if template is None:
            template = Template(id=new_id(), name=alias, team=team)
            self.templates[template.id] = template
        for build in template.builds:
            if build.status == "waiting" and template.tags_of(build.id) & set(wanted):
                # The cached status is not updated.
                build.status, build.message = "error", SUPERSEDED
        build = Build(
            id=str(uuid.uuid4()),
            template_id=template.id,
            team=team,
            cpu=cpu,
            memory_mb=memory,
            free_disk_mb=body.get("minFreeDiskMb"),
        )
        template.builds.append(build)
        template.tags += [(tag, build.id, dt.datetime.now(dt.UTC)) for tag in wanted]
        return template, build, wanted

    def start_build(self, team: Team, template_id: str, build_id: str) -> Build:
        """Check a build to be started and cancel others, as `POST /v2/templates/{id}/builds/{id}`."""
        if not is_uuid(build_id):
            raise ApiError(400, f"Invalid build ID: {build_id}")
        build_id = str(uuid.UUID(build_id))
        template = self.templates.get(template_id)
        build = template.build(build_id) if template else None
        if template is None or build is None:
            raise ApiError(404, "Error when getting template: no rows in result set")
        if template.team is not team:
            raise ApiError(403, "User does not have access to the template")
        for other in template.builds:
            shared = template.tags_of(other.id) & template.tags_of(build.id)
            if other is not build and other.running and shared:
                self._cancel(other)
        if build.status != "waiting":
            raise ApiError(400, "build is not in waiting state")
        return build

    def _cancel(self, build: Build) -> None:
        """End a running build in its builder; the API notices that when it polls the builder."""

        def learn() -> None:
            with self.lock:
                build.become("error", CANCELLED)

        build.canceled.set()
        timer = threading.Timer(self.poll_seconds, learn)
        timer.daemon = True
        timer.start()

    def resolve(self, team: Team, reference: str) -> tuple[Template, Build]:
        """Return the build that `id`, `name`, `name:tag` or `id:build` means for a new sandbox."""
        identifier, tag = parse_name(reference, "Invalid template reference")
        template = self.look_up(team, identifier)
        matched = identifier if identifier == template.id else template.full_name
        if template.team is not team and not template.public:
            raise ApiError(404, f"template '{matched}' not found")
        build = self.ready(template, tag)
        if build is None:
            raise ApiError(
                404, f"tag '{tag or DEFAULT_TAG}' does not exist for template '{matched}'"
            )
        return template, build

    @staticmethod
    def ready(template: Template, tag: str | None) -> Build | None:
        """Return the ready build with a tag, or with a build ID in its place."""
        if tag and is_uuid(tag):
            build = template.build(tag)
            return build if build and build.status == "ready" else None
        entry = template.newest(tag or DEFAULT_TAG, ready=True)
        return template.build(entry[1]) if entry else None


def parse_name(text: str, invalid: str) -> tuple[str, str | None]:
    """Split `namespace/alias:tag`, trimmed and in lower case; the tag `default` counts as none."""
    name, colon, tag = text.strip().partition(":")
    try:
        tag = _cleaned(tag, "tag", _TAG) if colon else DEFAULT_TAG
        namespace, slash, alias = name.partition("/")
        if slash:
            alias = _cleaned(alias, "template ID", _IDENTIFIER)
            identifier = f"{_cleaned(namespace, 'namespace', _IDENTIFIER)}/{alias}"
        else:
            identifier = _cleaned(name, "template ID", _IDENTIFIER)
    except ValueError as error:
        raise ApiError(400, f"{invalid}: {error}") from error
    return identifier, None if tag == DEFAULT_TAG else tag


def clean_tags(tags: list[str]) -> list[str]:
    """Return the tags in lower case, without duplicates and in an arbitrary order."""
    cleaned = set()
    for tag in tags:
        try:
            cleaned.add(_cleaned(tag, "tag", _TAG))
            if is_uuid(tag.strip()):
                raise ValueError("tag cannot be a UUID")
        except ValueError as error:
            raise ApiError(400, f"Invalid tag: invalid tag '{tag}': {error}") from error
    return sorted(cleaned, reverse=True)


def _cleaned(value: str, kind: str, form: re.Pattern[str]) -> str:
    cleaned = value.strip().lower()
    if not form.fullmatch(cleaned):
        raise ValueError(f"invalid {kind}: {value}")
    return cleaned


def check_namespace(identifier: str, team: Team) -> None:
    namespace = identifier.rpartition("/")[0]
    if namespace not in ("", team.slug):
        raise ApiError(400, f"namespace '{namespace}' must match your team '{team.slug}'")


def checked_size(team: Team, body: dict[str, Any]) -> tuple[int, int]:
    """Return CPUs and memory, if they are possible and within the team's limits."""
    cpu, memory = body.get("cpuCount", 2), body.get("memoryMB", 1024)
    more = "(if you need to increase this limit, please contact support)"
    if cpu > 32:
        raise ApiError(400, "CPU count must be at most 32")
    if cpu != 1 and cpu % 2:
        raise ApiError(400, "CPU count must be 1 or an even number")
    if cpu > team.cpu_maximum:
        raise ApiError(400, f"CPU count can't be higher than {team.cpu_maximum} {more}")
    if memory % 2:
        raise ApiError(400, "Memory must be divisible by 2")
    if memory > team.memory_maximum_mb:
        raise ApiError(400, f"Memory can't be higher than {team.memory_maximum_mb} MiB {more}")
    return cpu, memory


def new_id() -> str:
    return "".join(random.choices(string.ascii_lowercase + string.digits, k=20))


def is_uuid(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True
