"""The templates of an account on E2B, by their tags, and which of them can be removed."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from builder.errors import BuildError, TargetUnavailableError
from builder.registry import DEFAULT_CHANNEL, Digest, Ref
from builder.registry.model import Build, Entry
from builder.targets.e2b.cloud import Cloud
from builder.targets.protocol import Needs, Tagged, Unused

DEFAULT_TAG = "default"
_DIGEST_TAG = re.compile(r"sha256-[0-9a-f]{64}")
_CLAIM = re.compile(r"(?P<channel>.+)\.(?P<build>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")


class _OfAccount:
    def __init__(self, cloud: Cloud) -> None:
        self.name, self.cloud = cloud.account.target, cloud

    def _status(self, template_id: str, build_id: str) -> str | None:
        """Return the status of a build, or None if E2B does not know it."""
        try:
            return self.cloud.state(template_id, build_id, 0).status
        except BuildError:
            return None


class Inventory(_OfAccount):
    """The templates of one account, by their tags."""

    def examine(self, ref: str) -> str:
        """Return the ID of the template that `ref` names, by ID or name and maybe a build."""
        name, _, build_id = ref.partition(":")
        tags = self.cloud.tags(name)
        if tags is None:
            raise BuildError(
                f"{self.name} has no template `{name}`, or another account has it",
                hint="look up its ID in E2B's dashboard, and check that the key is that account's",
            )
        if build_id in tags:
            raise BuildError(
                f"`{build_id}` is a tag of `{name}`, which may move",
                hint=f"name the build that has it now: {name}:{tags[build_id]}",
            )
        wanted = build_id or tags.get(DEFAULT_TAG)
        if wanted is None:
            raise BuildError(
                f"`{name}` has no tag `{DEFAULT_TAG}` on {self.name}: its bare ID starts nothing",
                hint="name one of its builds: "
                + (", ".join(f"{name}:{other}" for other in sorted({*tags.values()})) or "none"),
            )
        template_id = self.cloud.template_id(name) or name
        status = self.cloud.state(template_id, wanted, 0).status
        if status != "ready":
            raise BuildError(f"build {wanted} of `{name}` is not ready: {status}")
        return template_id

    def tagged(self, name: str) -> list[Tagged]:
        """Return the finished builds of template `name`, with the channels that name them."""
        template_id = self.cloud.template_id(name)
        builds: dict[str, list[str]] = {}
        known = self.cloud.tags(name) or {}
        for tag, build_id in known.items():
            builds.setdefault(build_id, []).append(tag)
        tagged = []
        for build_id, tags in sorted(builds.items()):
            if template_id is None or not self.usable(template_id, build_id):
                continue
            digests = [Digest.from_tag(tag) for tag in tags if _DIGEST_TAG.fullmatch(tag)]
            others = [t for t in tags if not _DIGEST_TAG.fullmatch(t) and not _CLAIM.fullmatch(t)]
            channels = sorted({*others} - {DEFAULT_TAG})
            tagged.append(
                Tagged(
                    ref=Ref(f"{template_id}:{build_id}"),
                    template_id=template_id,
                    build_id=build_id,
                    digest=digests[0] if len(digests) == 1 else None,
                    channels=tuple(channels),
                    published=tuple(c for c in channels if build_id in claims_on(c, known)),
                )
            )
        return tagged

    def template(self, name: str, builds: Iterable[Build]) -> tuple[str, dict[str, str]] | None:
        """Return the ID and the tags of template `name`, or None if it is absent.

        Raises `TargetUnavailableError` if the recorded `builds` belong to another account, and
        `BuildError` if the key has no access to all of it.
        """
        tags, own = self.cloud.tags(name), self.cloud.template_id(name)
        template_ids = {build.template_id for build in builds if not build.is_adopted}
        for recorded in sorted(map(str, template_ids - {own, None})):
            if self.cloud.is_of_another_account(recorded):
                raise TargetUnavailableError(
                    f"the template `{name}` ({recorded}) recorded for {self.name} belongs to"
                    " another account than the key",
                    hint="set the key of that account, or configure this one as another target in"
                    " pyproject.toml",
                )
        if tags is not None and own is None:
            raise BuildError(
                f"{self.name} shows the tags of `{name}`, but refuses its ID",
                hint="use a key that has access to all templates of the account",
            )
        return None if tags is None or own is None else (own, tags)

    def usable(self, template_id: str, build_id: str) -> bool:
        """Return True if a build exists and is ready."""
        return self._status(template_id, build_id) == "ready"

    def withdraw(
        self, name: str, builds: Sequence[Build], *, channels: Mapping[str, Build]
    ) -> str | None:
        """Remove the tags of `channels`, and those of the digests of `builds`."""
        template = self.template(name, [*builds, *channels.values()])
        if template is None:
            return f"the template `{name}` and its tags are gone from {self.name}"
        _, before = template
        ours = {channel: build.build_id for channel, build in channels.items()}
        ours |= {build.digest.tag: build.build_id for build in builds if build.digest}
        ours |= {claim_of(channel, str(build_id)): build_id for channel, build_id in ours.items()}
        kept = [tag for tag, build_id in ours.items() if before.get(tag) not in (None, build_id)]
        notes = [f"`{tag}` on {self.name} stays: it is on build {before[tag]}" for tag in kept]
        if tags := sorted(tag for tag in ours if tag in before and tag not in kept):
            self.cloud.remove_tags(name, tags)
        if DEFAULT_CHANNEL in channels and DEFAULT_TAG in before:
            notes.append(
                f"`{DEFAULT_TAG}` on {self.name} stays on build {before[DEFAULT_TAG]}: E2B removes"
                " it only with the template, which `template-builder gc` deletes once the registry"
                " has no build of it"
            )
        return "; ".join(notes) or None


class Cleaning(_OfAccount):
    """The tags and templates that an account keeps and nothing needs."""

    def unused(self, needs: Needs) -> list[Unused]:
        """Return the tags of unneeded builds, as E2B cannot delete a build, and the templates that
        the registry has given up, which it can delete with all builds."""
        busy = self.cloud.running_templates()
        limit = dt.datetime.now(dt.UTC).timestamp() - needs.protect_seconds
        waste = []
        for name, entry in needs.templates.items():
            tags = self.cloud.tags(name) or {}
            if template := self._given_up(name, entry, tags, busy, limit):
                waste.append(template)
                continue
            records = {
                build.build_id: build for build in entry.builds.values() if build.origin == "built"
            }
            for tag, build_id in tags.items():
                record = records.get(build_id)
                if record is None or record.digest is None or record.digest.tag != tag:
                    continue  # another project's build or tag
                young = _seconds(record.built_at) > limit
                if young or record.template_id in busy or needs.of("", record.digest):
                    continue
                waste.append(
                    Unused(
                        kind="tag",
                        identity=f"{name}:{tag}",
                        subject=build_id,
                        size=None,
                        why="no channel needs its build; without the tag no sandbox can be created"
                        " of it, unless it has or had another tag",
                    )
                )
        return waste

    def _given_up(
        self, name: str, entry: Entry, tags: Mapping[str, str], busy: Collection[str], limit: float
    ) -> Unused | None:
        """Return the template if it was built here, still exists and the registry has nothing of
        it, with the reason to keep it, if there is one."""
        events = entry.history
        built = [event.build for event in events if event.action == "build" and event.build]
        if entry.builds or entry.channels or not built:
            return None
        builds, template_id = {ref.build_id for ref in built}, built[-1].template_id
        listed = [item for item in self.cloud.templates() if item.template_id == template_id]
        if not listed:
            return None
        kept = None
        if any(event.action == "adopt" for event in events):
            kept = "the registry also had an adopted build of it"
        elif _seconds(events[-1].at) > limit:
            kept = "the registry gave it up within the protected days"
        elif template_id in busy:
            kept = "one of its sandboxes is running or paused"
        elif listed[0].used.timestamp() > limit:
            kept = "it was used within the protected days"
        elif any(
            self._status(template_id, other) != "error" for other in {*tags.values()} - builds
        ):
            kept = "it has a build that this registry never had"
        return Unused(
            kind="template",
            identity=template_id,
            subject=name,
            size=None,
            why="the registry has no build or channel of it any more",
            kept=kept and f"`{name}`: {kept}",
        )

    def remove(self, waste: Unused) -> str | None:
        """Remove a tag that is still on its build, or a template."""
        if waste.kind == "template":
            try:
                self.cloud.delete_template(waste.identity)
            except BuildError as error:  # one of its sandboxes is running or paused
                return error.message
            return None
        name, _, tag = waste.identity.partition(":")
        now = (self.cloud.tags(name) or {}).get(tag)
        if now not in (None, waste.subject):
            return f"it is now on build {now}"
        self.cloud.remove_tags(name, [tag])
        return None


def _seconds(moment: str | None) -> float:
    """Return the seconds since the epoch; infinity, which counts as new, for a malformed time."""
    try:
        return dt.datetime.fromisoformat(moment or "").timestamp()
    except ValueError:
        return float("inf")


def tags_of(channel: str) -> list[str]:
    """Return the tags of a channel: E2B's `default`, used for bare names, follows the default
    channel."""
    return [DEFAULT_TAG, channel] if channel == DEFAULT_CHANNEL else [channel]


def is_digest_tag(tag: str) -> bool:
    """Return True if a tag is that of a digest."""
    return _DIGEST_TAG.fullmatch(tag) is not None


def claim_of(channel: str, build_id: str) -> str:
    """Return the tag by which a verified build claims a channel; see `promotion`."""
    return f"{channel}.{build_id}"


def claims_on(channel: str, tags: Iterable[str]) -> set[str]:
    """Return the builds that claim a channel, by the tags of a template."""
    claims = [claim for tag in tags if (claim := _CLAIM.fullmatch(tag))]
    return {claim["build"] for claim in claims if claim["channel"] == channel}
