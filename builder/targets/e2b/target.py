"""The adapter of the target `e2b`, loaded with the SDK when such a target is asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from builder.errors import BuildError, NetworkError, NotOnThisMachineError
from builder.plan import Drift, TargetState
from builder.registry import history
from builder.sandbox.session import Sandbox
from builder.spec import Variant
from builder.system.events import Event, Reporter, discard
from builder.system.logs import Log
from builder.targets.e2b.account import Account
from builder.targets.e2b.building import Building
from builder.targets.e2b.cloud import Cloud
from builder.targets.e2b.inventory import Cleaning, Inventory, claims_on, tags_of
from builder.targets.e2b.program import cannot_be_checked, not_provided, unknown_service
from builder.targets.e2b.promotion import promote
from builder.targets.e2b.sandbox import open_sandbox
from builder.targets.journal import Entry, Journal
from builder.targets.protocol import BuildInput, Built, Opening, Publication, StateQuery

_METADATA = "template-builder"


class E2BTarget(Cleaning):
    """Builder, sandbox opener and publisher of one account."""

    steps_cached = True
    content_addressed = False
    this_machine = False
    jobs = 20  # what E2B lets a team build at a time
    changes = None  # nobody can write to a snapshot
    copies = None  # every sandbox is one of the snapshot

    def __init__(
        self,
        *,
        name: str,
        account: Account,
        key_variable: str,
        journal: Path,
        report: Reporter = discard,
    ) -> None:
        """`report` is told of what no variant's own reporter is: limits, and sandboxes left."""
        cloud = Cloud(
            account,
            key_variable=key_variable,
            waiting=lambda why: report(Event(kind="step", text=why)),
        )
        super().__init__(name=name, cloud=cloud)
        self.inventory = Inventory(name=name, cloud=cloud)
        self.journal = Journal(journal, target=name)
        self._report = report
        self._unended: set[str] = set()

    def account(self) -> str:
        """That the key is accepted, and the team that it belongs to where its templates say so."""
        team = self.cloud.team()
        return f"the key is accepted{f', team {team}' if team else ''}"

    def tidy(self) -> None:
        """End the sandboxes of runs that were killed while they verified."""
        for name in self.journal.names():
            with contextlib.suppress(BlockingIOError), self.journal.claimed(name, wait=False):
                self._end_left_over(name)

    def look(self, query: StateQuery) -> TargetState:
        """Whether the digest is built, and how E2B differs from the build that the channel of the
        registry points at."""
        rendered, entry, channel = query.rendered, query.recorded, query.channel
        name = rendered.variant.name
        current = entry.channel(channel).usable
        wanted = current.build_id if current else None
        template = self.inventory.template(name, entry.builds.values())
        if template is None:
            gone = f"the template `{name}` is gone from {self.name}"
            return TargetState(
                present=False, drift=Drift(text=gone, usable=False) if wanted else None
            )
        template_id, tags = template
        builds = [build for build in entry.builds.values() if not build.is_revoked]
        same = {build.build_id for build in builds if build.digest == rendered.digest}
        same.add(tags.get(rendered.digest.tag))
        usable = frozenset(
            build_id
            for build_id in {*same, wanted}
            if build_id and self.inventory.usable(template_id, build_id)
        )
        drift = self._moved(name, tags, wanted, channel, history.build_ids(entry))
        if wanted and wanted not in usable:
            text = f"build {wanted} on {self.name} is gone or not ready"
            drift = Drift(text=text, usable=False)
        return TargetState(present=bool(same & usable), drift=drift, usable=usable)

    def _moved(
        self,
        name: str,
        tags: Mapping[str, str],
        wanted: str | None,
        channel: str,
        recorded: Collection[str],
    ) -> Drift | None:
        entry = self.journal.read(name)
        ours = {*recorded, entry.build_id if entry else None}
        for tag in tags_of(channel):
            now = tags.get(tag)
            if now and now in claims_on(channel, tags) and now not in ours:
                return Drift(
                    text=f"the tag `{tag}` on {self.name} is on build {now}, which another machine"
                    " has published and this registry does not know: `template-builder registry"
                    f" rebuild {name} --target {self.name}` records it",
                    usable=True,
                    elsewhere=True,
                )
            if wanted and now != wanted:
                place = f"is on build {now}" if now else "is gone"
                return Drift(
                    text=f"the tag `{tag}` on {self.name} {place}, the registry says {wanted}: it"
                    " was moved by hand, or by another registry",
                    usable=True,
                )
        return None

    def unsupported(self, variant: Variant) -> tuple[str, ...]:
        """What an error did not say already when its steps were made."""
        return (*not_provided(variant), *unknown_service(variant))

    def blocked(self, variant: Variant) -> str | None:
        """Where a sandbox has no code interpreter, nothing could be checked in it."""
        return cannot_be_checked(variant)

    @contextlib.contextmanager
    def claimed(self, name: str) -> Iterator[None]:
        """Hold the template against other processes of this project, for the `with` block."""

        def waiting() -> None:
            text = "another process builds it: waiting"
            self._report(Event(kind="step", variant=name, text=text))

        with self.journal.claimed(name, waiting=waiting):
            self._end_left_over(name)
            try:
                yield
            finally:
                entry = self.journal.read(name)
                if entry and entry.verifying and name not in self._unended:
                    self._closed(entry)

    def build(self, order: BuildInput, *, report: Reporter, log: Log) -> Built:
        """Make the build of the order's digest, or find it made or under way."""
        name = order.rendered.variant.name
        building = Building(
            order,
            target=self.name,
            cloud=self.cloud.telling(
                lambda why: report(Event(kind="detail", variant=name, text=why))
            ),
            journal=self.journal,
            report=report,
            log=log,
        )
        return building.make()

    def open(self, opening: Opening) -> Sandbox:
        """Create a sandbox of exactly the build; its variables and what is warm are in it already.

        Code runs in the interpreter that the snapshot holds, unless it is to be cold.
        """
        name, ref = opening.name, opening.ref
        entry = self.journal.read(name) or self.journal.begin(name, "")
        self.journal.write(replace(entry, verifying=True))

        def warn(text: str) -> None:
            self._unended.add(name)
            self._warn(text)

        try:
            return open_sandbox(
                self.cloud, ref, metadata=self._metadata(name), cold=opening.cold, warn=warn
            )
        except NetworkError:
            self._unended.add(name)  # it may have been created: the answer alone got lost
            raise
        except BuildError as error:
            raise NotOnThisMachineError(
                f"no sandbox of `{ref}` can be created on {self.name}: {error.message}",
                hint="is the build still there?"
                f" `template-builder plan {name} --target {self.name}` tells",
            ) from error

    def publish(self, publication: Publication) -> Callable[[], None] | None:
        """Move the tags of the channel to a verified build, which keeps that of its digest."""
        build = publication.build
        if not publication.channel:
            return None
        assert build.template_id
        assert build.build_id
        return promote(
            self.cloud,
            # An adopted one may be called otherwise.
            publication.name if build.digest else build.template_id,
            build.template_id,
            build.build_id,
            publication.channel,
            also=[build.digest.tag] if build.digest else [],
            over=publication.over,
        )

    def _metadata(self, name: str) -> dict[str, str]:
        return {_METADATA: f"{self.journal.owner}/{name}"}

    def _end_left_over(self, name: str) -> None:
        """End what a run that was killed has left running; only under the claim of `name`."""
        entry = self.journal.read(name)
        if entry is None or not entry.verifying:
            return
        try:
            for sandbox_id in self.cloud.sandboxes(self._metadata(name)):
                self.cloud.kill_sandbox(sandbox_id)
        except (BuildError, NetworkError) as error:
            self._warn(
                f"a sandbox that an earlier run opened for `{name}` may be left: {error.message};"
                " the next run tries again"
            )
            return
        self._closed(entry)

    def _closed(self, entry: Entry) -> None:
        """Nothing runs any more that was opened for `entry`."""
        if entry.digest:
            self.journal.write(replace(entry, verifying=False))
        else:
            self.journal.remove(entry.name)

    def _warn(self, text: str) -> None:
        self._report(Event(kind="warning", text=text))
