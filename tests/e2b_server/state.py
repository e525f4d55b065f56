"""What the server knows: teams, templates, builds, tags, uploaded files, cached layers."""

from __future__ import annotations

import datetime as dt
import re
import threading
import uuid
from dataclasses import dataclass, field
from typing import Any

NAME = re.compile(r"(?:[a-z0-9-_]+/)?[a-z0-9-_]{1,128}")
TAG = re.compile(r"[a-z0-9-_.]+")
SUPERSEDED = "The build was canceled because it was superseded by a newer one."
CANCELLED = "build was cancelled"
TOO_MANY = (
    "you have reached the maximum number of concurrent template builds ({}). Please wait for existing"
    " builds to complete or contact support if you need more concurrent builds."
)


class ApiError(Exception):
    """An answer that is an error."""

    def __init__(self, code: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.headers = code, message, headers or {}


@dataclass
class Team:
    """An account with its key."""

    key: str
    slug: str = "team"
    builds_at_a_time: int = 20
    sandboxes_at_a_time: int = 20


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
    # Status, message and step as the route of the status has them in its cache.
    cached: tuple[str, str, str | None] | None = None

    def become(self, status: str, message: str = "", step: str | None = None) -> None:
        """Change the status in the database, and have the cache forget it."""
        self.status, self.message, self.step = status, message, step
        self.cached = None

    @property
    def running(self) -> bool:
        return self.status == "building"


@dataclass
class Template:
    """A name and its builds."""

    id: str
    name: str
    team: Team
    builds: list[Build] = field(default_factory=list)
    # (tag, build ID, when), oldest first; a tag is where its newest assignment says.
    tags: list[tuple[str, str, dt.datetime]] = field(default_factory=list)

    def tags_of(self, build_id: str) -> set[str]:
        return {tag for tag, build, _ in self.tags if build == build_id}

    def build(self, build_id: str) -> Build | None:
        return next((one for one in self.builds if one.id == build_id), None)

    def newest(self, tag: str, *, ready: bool) -> tuple[str, str, dt.datetime] | None:
        for entry in reversed(self.tags):
            build = self.build(entry[1])
            if entry[0] == tag and build and (build.status == "ready" or not ready):
                return entry
        return None


class State:
    """All of it, under one lock."""

    def __init__(self, teams: list[Team]) -> None:
        self.lock = threading.RLock()
        self.teams = {team.key: team for team in teams}
        self.templates: dict[str, Template] = {}
        self.files: dict[tuple[str, str], bytes] = {}
        self.layers: dict[tuple[str, str], Any] = {}
        self.executed: list[tuple[str, str]] = []
        # Where the next builds fail: (phase or number of a step, the step that is told, why).
        self.failures: list[tuple[str, str | None, str]] = []
        # How long it takes the API to learn of a build that its builder has cancelled.
        self.poll_seconds = 0.2

    def team(self, key: str | None) -> Team:
        if not key:
            raise ApiError(401, "authentication required: no API key was given")
        if key not in self.teams:
            raise ApiError(401, "Invalid API key")
        return self.teams[key]

    def find(self, team: Team, name_or_id: str) -> Template | None:
        for template in self.templates.values():
            if template.team is team and name_or_id in (
                template.id,
                template.name,
                f"{team.slug}/{template.name}",
            ):
                return template
        return None

    def owned(self, team: Team, name_or_id: str) -> Template:
        found = self.find(team, name_or_id)
        if found:
            return found
        if any(name_or_id in (one.id, one.name) for one in self.templates.values()):
            raise ApiError(403, f"You don't have access to sandbox template '{name_or_id}'")
        raise ApiError(404, f"template '{name_or_id}' not found")

    def request_build(self, team: Team, body: dict[str, Any]) -> tuple[Template, Build, list[str]]:
        """What `POST /v3/templates` does."""
        name, tags = parse_name(body.get("name") or body.get("alias") or "")
        tags += [tag for tag in body.get("tags", []) if tag not in tags]
        for tag in tags:
            check_tag(tag)
        cpu, memory = body.get("cpuCount", 2), body.get("memoryMB", 1024)
        if not 1 <= cpu <= 32 or (cpu > 1 and cpu % 2):
            raise ApiError(400, "CPU count must be 1 or an even number up to 32")
        if memory < 128 or memory % 2:
            raise ApiError(400, "Memory must be an even number of MiB, at least 128")
        if name in self.templates:
            raise ApiError(409, f"Alias '{name}' is already used")
        template = self.find(team, name)
        running = [
            build
            for one in self.templates.values()
            for build in one.builds
            if one.team is team and one is not template and build.running
        ]
        if len(running) >= team.builds_at_a_time:
            raise ApiError(429, TOO_MANY.format(team.builds_at_a_time))
        if template is None:
            template = Template(id=uuid.uuid4().hex[:20], name=name.rpartition("/")[2], team=team)
            self.templates[template.id] = template
        wanted = tags or ["default"]
        for build in template.builds:
            if build.status == "waiting" and template.tags_of(build.id) & set(wanted):
                # The cache of the status is not told.
                build.status, build.message = "error", SUPERSEDED
        made = Build(
            id=str(uuid.uuid4()),
            template_id=template.id,
            team=team,
            cpu=cpu,
            memory_mb=memory,
            free_disk_mb=body.get("minFreeDiskMb"),
        )
        template.builds.append(made)
        template.tags += [(tag, made.id, dt.datetime.now(dt.UTC)) for tag in wanted]
        return template, made, wanted

    def start_build(self, team: Team, template_id: str, build_id: str) -> Build:
        """What `POST /v2/templates/{id}/builds/{id}` checks and cancels."""
        template = self.owned(team, template_id)
        build = template.build(build_id)
        if build is None:
            raise ApiError(404, f"Error when getting template: build '{build_id}' not found")
        for other in template.builds:
            shared = template.tags_of(other.id) & template.tags_of(build.id)
            if other is not build and other.running and shared:
                self._cancel(other)
        if build.status != "waiting":
            raise ApiError(400, "build is not in waiting state")
        return build

    def _cancel(self, build: Build) -> None:
        """End a running build at its builder; the API learns of it when it asks there."""

        def learn() -> None:
            with self.lock:
                build.become("error", CANCELLED)

        build.canceled.set()
        timer = threading.Timer(self.poll_seconds, learn)
        timer.daemon = True
        timer.start()

    def resolve(self, team: Team, ref: str) -> tuple[Template, Build]:
        """From what a sandbox is created of to its build: `id`, `name`, `name:tag`, `id:build`."""
        name, _, tag = ref.partition(":")
        template = self.owned(team, name)
        tag = tag or "default"
        if is_uuid(tag):
            # E2B keeps where a tag was before, and reaches by its ID what a tag was ever on.
            build = template.build(tag) if template.tags_of(tag) else None
            if build is None or build.status != "ready":
                raise ApiError(404, f"build '{tag}' of template '{name}' not found")
            return template, build
        entry = template.newest(tag, ready=True)
        build = template.build(entry[1]) if entry else None
        if build is None:
            raise ApiError(404, f"tag '{tag}' does not exist for template '{name}'")
        return template, build


def parse_name(text: str) -> tuple[str, list[str]]:
    name, _, tag = text.partition(":")
    if not NAME.fullmatch(name):
        raise ApiError(400, f"Invalid name: invalid template ID: {name}")
    if tag:
        check_tag(tag)
    return name, [tag] if tag else []


def check_tag(tag: str) -> None:
    if not TAG.fullmatch(tag) or is_uuid(tag):
        raise ApiError(400, f"Invalid tag: '{tag}'")


def is_uuid(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True
