"""Start a build on E2B, or find one of the same digest that runs or is finished already.

The IDs of a build are in the journal before anything waits for it. A build of the same digest that
was started before, on this or another machine, is used instead of a new one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from builder.errors import BuildError, NetworkError
from builder.system.logs import Log
from builder.system.processes import pause
from builder.targets.e2b.cloud import BuildState, Cloud
from builder.targets.e2b.program import serialized
from builder.targets.journal import Entry, Journal
from builder.targets.protocol import BuildInput

POLL_SECONDS = 0.2
# Starting a build takes several calls, each of which may meet a fault.
ATTEMPTS = 8
_UPLOADS = 5
# How long a new build of another machine may take to begin, while its files are uploaded.
_BEGIN_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class CloudBuild:
    """A build on E2B: `ours` if this project started it, `new` if this run did."""

    template_id: str
    build_id: str
    state: BuildState
    ours: bool = True
    new: bool = False


class _ReplacedError(BuildError):
    """A build was replaced by another one before it started."""


class _UploadError(NetworkError):
    """A file could not be uploaded, however often it was tried."""


@dataclass(kw_only=True)
class Starter:
    """Finds or starts the build of one digest. Use it from one thread, under its name's claim."""

    order: BuildInput
    cloud: Cloud
    journal: Journal
    log: Log
    say: Callable[[str], None]
    entry: Entry | None = None

    def __post_init__(self) -> None:
        self._name, self._digest = self.order.rendered.variant.name, self.order.rendered.digest

    def existing(self, *, replaced: bool) -> CloudBuild | None:
        """Return the build of this digest that runs or is finished: first this project's.

        With --force only a build that another machine started meanwhile will do, which is the case
        when it `replaced` ours.
        """
        entry, force = self.journal.read(self._name), self.order.force
        self.entry = entry if entry and entry.digest == self._digest else None
        if self.entry and (self.entry.forced or not force):
            build = self._own()
            if build and build.build_id not in self.order.unwanted and not replaced:
                self.say(f"resuming build {build.build_id} of an earlier run")
                return build
        if force and not replaced:
            return None
        build = self._tagged_build()
        if build:
            state = "exists already" if build.state.status == "ready" else "is running elsewhere"
            self.say(f"build {build.build_id} of the same digest {state}")
            self.entry = self.journal.begin(self._name, self._digest)
            self._keep_ids(build.template_id, build.build_id)
        return build

    def start(self) -> CloudBuild | None:
        """Start a new build, despite faults; None if another machine's build has replaced it."""
        order = self.order
        for attempt in range(1, ATTEMPTS + 1):
            self.entry = self.journal.begin(
                self._name, self._digest, forced=order.force, expected_cached=order.expected_cached
            )
            try:
                return self._start_once()
            except _UploadError as error:  # a further build would wait for the same files
                raise NetworkError(error.message, hint=error.hint) from error
            except (BuildError, NetworkError) as error:
                # It may have started anyway: perhaps only the response was lost.
                if build := self._own():
                    self.say(f"build {build.build_id} started")
                    return replace(build, state=BuildState(status="building"), new=True)
                if isinstance(error, _ReplacedError) or self._own_is_replaced():
                    return None
                if attempt == ATTEMPTS or isinstance(error, BuildError):
                    if self.entry and not self.entry.build_id:
                        self.journal.remove(self._name)
                    raise
                self.log.line(f"{error.message}; trying again")
                pause(0.5 * attempt)
        raise AssertionError("unreachable")

    def has_successor(self, build: CloudBuild) -> bool:
        """Return True if a newer build of the digest has started, which ends this one."""
        newer = self._tagged()
        if newer in (None, build.build_id):
            return False
        return self.cloud.state(build.template_id, newer, 0).status in ("building", "ready")

    def is_replaced(self, build_id: str) -> bool:
        """Return True if a newer build of the digest was requested."""
        return self._tagged() not in (None, build_id)

    def is_tagged(self) -> bool:
        """Return True if there is a build of the digest, in whatever state."""
        return self._tagged() is not None

    def _start_once(self) -> CloudBuild:
        order, variant, name = self.order, self.order.rendered.variant, self._name
        template = serialized(order)
        template_id, build_id = self.cloud.request_build(
            name,
            tag=self._digest.tag,
            cpu=variant.cpu,
            memory_mb=variant.memory_mb,
            free_disk_mb=variant.free_disk_mb,
        )
        self._keep_ids(template_id, build_id)
        for step in template["steps"]:
            if step["type"] == "COPY":
                self._upload(template_id, step["args"][0], step["filesHash"])
        # Even a start that E2B refuses would cancel the build that has replaced this one.
        if self._own_is_replaced():
            raise _ReplacedError(f"the build of `{name}` was replaced before it started")
        self.cloud.start_build(template_id, build_id, template)
        self.say(f"build {build_id} started")
        state = BuildState(status="building")
        return CloudBuild(template_id=template_id, build_id=build_id, state=state, new=True)

    def _upload(self, template_id: str, source: str, digest: str) -> None:
        """Upload the files of a COPY to the same build, each time by a new link."""
        for attempt in range(1, _UPLOADS + 1):
            try:
                new = self.cloud.upload(template_id, self.order.folder, source, digest)
            except NetworkError as error:
                if attempt == _UPLOADS:
                    raise _UploadError(error.message, hint=error.hint) from error
                self.log.line(f"{error.message}; trying again")
                pause(0.5 * attempt)
            else:
                if new:
                    self.log.line(f"uploaded `{source}`")
                return

    def _tagged(self) -> str | None:
        """Return the ID of the digest's newest build. E2B reads tags from its database, and the
        state of a build from a cache, which may be minutes old."""
        return (self.cloud.tags(self._name) or {}).get(self._digest.tag)

    def _tagged_build(self) -> CloudBuild | None:
        """Return the digest's newest build, unless it failed or does not begin."""
        deadline = time.monotonic() + _BEGIN_SECONDS
        while True:
            build_id = self._tagged()
            if build_id is None or build_id in self.order.unwanted:
                return None
            template_id = self.cloud.template_id(self._name)
            build = self._build(template_id, build_id, ours=False)
            if build is None or build.state.status in ("building", "ready"):
                return build
            if build.state.status != "waiting" or time.monotonic() >= deadline:
                return None
            pause(POLL_SECONDS)

    def _own(self) -> CloudBuild | None:
        """Return the build of the journal's entry, if it runs or is finished."""
        entry = self.entry
        build = entry and self._build(entry.template_id, entry.build_id)
        return build if build and build.state.status in ("building", "ready") else None

    def _build(
        self, template_id: str | None, build_id: str | None, *, ours: bool = True
    ) -> CloudBuild | None:
        if not template_id or not build_id:
            return None
        try:
            state = self.cloud.state(template_id, build_id, 0)
        except BuildError:  # E2B does not know it any more
            return None
        return CloudBuild(template_id=template_id, build_id=build_id, state=state, ours=ours)

    def _own_is_replaced(self) -> bool:
        ours = self.entry.build_id if self.entry else None
        return ours is not None and self.is_replaced(ours)

    def _keep_ids(self, template_id: str, build_id: str) -> None:
        assert self.entry
        entry = replace(self.entry, template_id=template_id, build_id=build_id)
        self.entry = self.journal.write(entry)
