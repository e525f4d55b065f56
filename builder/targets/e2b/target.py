"""The adapter of the target `e2b`; it loads the SDK."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from builder.plan import Drift, StateQuery, TargetState
from builder.registry import Ref, history
from builder.spec import Variant
from builder.system.events import Event, Reporter, discard
from builder.system.logs import Log
from builder.targets.e2b.account import Account
from builder.targets.e2b.building import Building
from builder.targets.e2b.cloud import Cloud
from builder.targets.e2b.code_service import cannot_be_checked, service_notes
from builder.targets.e2b.inventory import Cleaning, Inventory, claims_on, tags_of
from builder.targets.e2b.program import needs_no_network, not_provided
from builder.targets.e2b.promotion import promote
from builder.targets.e2b.sandbox import Sandboxes
from builder.targets.protocol import BuildInput, Built, Publication


class E2BTarget(Sandboxes, Cleaning):
    """Builder, opener, publisher and cleaner of one account."""

    steps_cached = True
    content_addressed = False
    this_machine = False
    starts_services = True
    jobs = 20  # E2B's limit of a team's concurrent builds
    changes = None  # nobody can write to a snapshot
    copies = None  # every sandbox is a copy of the snapshot

    def __init__(self, account: Account, *, journal: Path, report: Reporter = discard) -> None:
        """`report` receives events of no single template, such as limits and leftover sandboxes."""
        cloud = Cloud(account, waiting=lambda why: report(Event(kind="step", text=why)))
        super().__init__(cloud, journal=journal, report=report)
        self.inventory = Inventory(cloud)

    def account(self) -> str:
        """Check the key; return its team, if that is known."""
        team = self.cloud.team()
        return f"the key is accepted{f', team {team}' if team else ''}"

    def look(self, query: StateQuery) -> TargetState:
        """Return whether the digest is built, and how E2B differs from the registry's channel."""
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
        drift = self._moved(name, tags, wanted, query)
        if wanted and wanted not in usable:
            text = f"build {wanted} on {self.name} is gone or not ready"
            drift = Drift(text=text, usable=False)
        return TargetState(present=bool(same & usable), drift=drift, usable=usable)

    def _moved(
        self, name: str, tags: Mapping[str, str], wanted: str | None, query: StateQuery
    ) -> Drift | None:
        channel, ours = query.channel, self._ours(name, query)
        for tag in tags_of(channel):
            now = tags.get(tag)
            place = f"the tag `{tag}` on {self.name}"
            # A tag that was moved by hand leaves the claim of the channel's build.
            if now and now in claims_on(channel, tags) and now not in ours:
                rebuild = f"`template-builder registry rebuild {name} --target {self.name}`"
                text = (
                    f"{place} is on build {now}, which another machine published and this registry"
                )
                if now in history.build_ids(query.recorded):
                    text += f" has not on channel {channel}: {rebuild} moves the channel there"
                else:
                    text += f" does not know: {rebuild} records it"
                return Drift(text=text, usable=True, elsewhere=True)
            if wanted and now != wanted:
                state = f"is on build {now}" if now else "is gone"
                return Drift(
                    text=f"{place} {state}, but the registry names {wanted}: it was moved by hand,"
                    " or by another registry",
                    usable=True,
                )
        return None

    def _ours(self, name: str, query: StateQuery) -> set[str | None]:
        """Return the builds that no other machine has moved the channel to: the one that it has in
        this registry, those revoked or removed here, and the one that a killed run has left."""
        entry, journaled = query.recorded, self.journal.read(name)
        named = entry.channels.get(query.channel)
        usable = {build.build_id for build in entry.builds.values() if not build.is_revoked}
        return (history.build_ids(entry) - usable) | {
            named.build_id if named else None,
            journaled.build_id if journaled else None,
        }

    def unsupported(self, variant: Variant) -> tuple[str, ...]:
        """Return the features that E2B lacks, except those that are errors when flattening."""
        return (*service_notes(variant), *not_provided(variant))

    def blocked(self, variant: Variant) -> str | None:
        """Return why the variant cannot be built: what it is from is gone, or it cannot be checked.

        Of a template that was not built here, only E2B knows whether the key may use it.
        """
        parent = variant.parent
        if parent and parent.digest:
            ref = Ref(parent.ref)
            if not self.inventory.usable(ref.template_id, ref.build_id):
                return (
                    f"build {ref.build_id} of `{parent.title}`, which it is from, is gone from"
                    f" {self.name} or not ready; `template-builder build {parent.title} --target"
                    f" {self.name}` makes another one"
                )
        reasons = (needs_no_network(variant), cannot_be_checked(variant))
        return "; ".join(filter(None, reasons)) or None

    def build(self, order: BuildInput, *, report: Reporter, log: Log) -> Built:
        """Make the build of the order's digest, or find it."""
        name = order.rendered.variant.name
        building = Building(
            order=order,
            target=self.name,
            cloud=Cloud(
                self.cloud.account,
                waiting=lambda why: report(Event(kind="detail", variant=name, text=why)),
            ),
            journal=self.journal,
            report=report,
            log=log,
        )
        return building.make()

    def publish(self, publication: Publication) -> Callable[[], None] | None:
        """Move the channel's tags to a verified build, which keeps its digest's tag."""
        build = publication.build
        if not publication.channel:
            return None
        assert build.template_id
        assert build.build_id
        return promote(
            self.cloud,
            # An adopted template may have another name.
            publication.name if build.digest else build.template_id,
            build.template_id,
            build.build_id,
            publication.channel,
            also=[build.digest.tag] if build.digest else [],
            over=publication.over,
        )
