"""What an account on E2B has of templates, as their tags tell it, and letting go of it."""

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
    def __init__(self, *, name: str, cloud: Cloud) -> None:
        """`name` is what the target is called."""
        self.name, self.cloud = name, cloud

    def _status(self, template_id: str, build_id: str) -> str | None:
        """The status of a build; None where E2B does not know it."""
        try:
            return self.cloud.state(template_id, build_id, 0).status
        except BuildError:
            return None


class Inventory(_OfAccount):
    """The templates of one account, as their tags tell them."""

    def examine(self, ref: str) -> str:
        """Look for a template of the account, by its ID (or name) and a build of it."""
        asked, _, build_id = ref.partition(":")
        tags = self.cloud.tags(asked)
        if tags is None:
            raise BuildError(
                f"there is no template `{asked}` on {self.name}, or it is another account's",
                hint="its ID is in E2B's dashboard; is the key that of the right account?",
            )
        if build_id in tags:
            raise BuildError(
                f"`{build_id}` is a tag of `{asked}`, which may move",
                hint=f"{asked}:{tags[build_id]} is the build that it is on now",
            )
        wanted = build_id or tags.get(DEFAULT_TAG)
        if wanted is None:
            raise BuildError(
                f"`{asked}` has no tag `{DEFAULT_TAG}` on {self.name}: its bare ID starts nothing",
                hint="name a build of it: "
                + (
                    ", ".join(f"{asked}:{other}" for other in sorted({*tags.values()}))
                    or "it has none"
                ),
            )
        template_id = self.cloud.template_id(asked) or asked
        status = self.cloud.state(template_id, wanted, 0).status
        if status != "ready":
            raise BuildError(f"the build {wanted} of `{asked}` is not ready: {status}")
        return template_id

    def tagged(self, name: str) -> list[Tagged]:
        """The finished builds of template `name`, with the channels that lead to them."""
        template_id = self.cloud.template_id(name)
        builds: dict[str, list[str]] = {}
        for tag, build_id in (self.cloud.tags(name) or {}).items():
            builds.setdefault(build_id, []).append(tag)
        tagged = []
        for build_id, tags in sorted(builds.items()):
            if template_id is None or not self.usable(template_id, build_id):
                continue
            digests = [Digest.from_tag(tag) for tag in tags if _DIGEST_TAG.fullmatch(tag)]
            channels = [t for t in tags if not _DIGEST_TAG.fullmatch(t) and not _CLAIM.fullmatch(t)]
            tagged.append(
                Tagged(
                    ref=Ref(f"{template_id}:{build_id}"),
                    template_id=template_id,
                    build_id=build_id,
                    digest=digests[0] if len(digests) == 1 else None,
                    channels=tuple(sorted({*channels} - {DEFAULT_TAG})),
                )
            )
        return tagged

    def template(self, name: str, builds: Iterable[Build]) -> tuple[str, dict[str, str]] | None:
        """The ID and the tags of template `name`; None where it is not there.

        Raises `TargetUnavailableError` where `builds` are of one that another account has, and
        `BuildError` where the key may not see all of it.
        """
        tags, own = self.cloud.tags(name), self.cloud.template_id(name)
        made = {build.template_id for build in builds if not build.is_adopted}
        for recorded in sorted(map(str, made - {own, None})):
            if self.cloud.is_of_another_account(recorded):
                raise TargetUnavailableError(
                    f"the template `{name}` ({recorded}) that is recorded for {self.name} belongs"
                    " to another account than the key",
                    hint="set the key of the right account; another account is a target of its own"
                    " in pyproject.toml",
                )
        if tags is not None and own is None:
            raise BuildError(
                f"{self.name} has tags of `{name}`, and refuses to say which template that is",
                hint="may the key see all of its account's templates?",
            )
        return None if tags is None or own is None else (own, tags)

    def usable(self, template_id: str, build_id: str) -> bool:
        """Whether a build is there and ready."""
        return self._status(template_id, build_id) == "ready"

    def withdraw(
        self, name: str, builds: Sequence[Build], *, channels: Mapping[str, Build]
    ) -> str | None:
        """Remove the tags of `channels`, and those of the digests of `builds`."""
        template = self.template(name, [*builds, *channels.values()])
        if template is None:
            return f"there is no template `{name}` on {self.name} any more, and no tag of it"
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
                " it with the template alone, as `template-builder gc` does once the registry has"
                " nothing of it"
            )
        return "; ".join(notes) or None


class Cleaning(_OfAccount):
    """What an account keeps and nothing needs."""

    def unused(self, needs: Needs) -> list[Unused]:
        """The tags of builds that nothing needs, since E2B has no call that deletes one build; and
        the templates that the registry has given up, of which it deletes all builds."""
        busy = self.cloud.running_templates()
        limit = dt.datetime.now(dt.UTC).timestamp() - needs.protect_seconds
        waste = []
        for name, entry in needs.templates.items():
            tags = self.cloud.tags(name) or {}
            if template := self._given_up(name, entry, tags, busy, limit):
                waste.append(template)
                continue
            made = {
                build.build_id: build for build in entry.builds.values() if build.origin == "built"
            }
            for tag, build_id in tags.items():
                record = made.get(build_id)
                if record is None or record.digest is None or record.digest.tag != tag:
                    continue  # not made here, or not a tag of ours
                young = _seconds(record.built_at) > limit
                if young or record.template_id in busy or needs.of("", record.digest):
                    continue
                waste.append(
                    Unused(
                        kind="tag",
                        identity=f"{name}:{tag}",
                        subject=build_id,
                        size=None,
                        why="no channel needs its build, of which no sandbox can be created"
                        " afterwards, unless another tag is on it or was",
                    )
                )
        return waste

    def _given_up(
        self, name: str, entry: Entry, tags: Mapping[str, str], busy: Collection[str], limit: float
    ) -> Unused | None:
        """The template, where it was built here, is there still, and nothing of it is in the
        registry; or why it is kept."""
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
            kept = "the registry has had it as adopted, too"
        elif _seconds(events[-1].at) > limit:
            kept = "the registry has given it up in the days that are protected"
        elif template_id in busy:
            kept = "a sandbox of it runs, or is paused"
        elif listed[0].used.timestamp() > limit:
            kept = "it was used in the days that are protected"
        elif any(
            self._status(template_id, other) != "error" for other in {*tags.values()} - builds
        ):
            kept = "it has a build that this registry has never had"
        return Unused(
            kind="template",
            identity=template_id,
            subject=name,
            size=None,
            why="the registry has no build and no channel of it any more",
            kept=kept and f"`{name}`: {kept}",
        )

    def remove(self, waste: Unused) -> str | None:
        """Remove a tag that is still on its build, or a template."""
        if waste.kind == "template":
            try:
                self.cloud.delete_template(waste.identity)
            except BuildError as error:  # a sandbox of it runs, or is paused
                return error.message
            return None
        name, _, tag = waste.identity.partition(":")
        now = (self.cloud.tags(name) or {}).get(tag)
        if now not in (None, waste.subject):
            return f"it is on build {now} now"
        self.cloud.remove_tags(name, [tag])
        return None


def _seconds(moment: str | None) -> float:
    """Seconds since the epoch; of what cannot be read, so many that it counts as new."""
    try:
        return dt.datetime.fromisoformat(moment or "").timestamp()
    except ValueError:
        return float("inf")


def tags_of(channel: str) -> list[str]:
    """`default` is what a bare name means on E2B: it follows the channel that a bare name means
    here."""
    return [DEFAULT_TAG, channel] if channel == DEFAULT_CHANNEL else [channel]


def is_digest_tag(tag: str) -> bool:
    """Whether a tag is that of the digest of a build."""
    return _DIGEST_TAG.fullmatch(tag) is not None


def claim_of(channel: str, build_id: str) -> str:
    """The tag by which a verified build claims a channel; see `promotion`."""
    return f"{channel}.{build_id}"


def claims_on(channel: str, tags: Iterable[str]) -> set[str]:
    """The builds that claim a channel, of the tags of a template."""
    claims = [claim for tag in tags if (claim := _CLAIM.fullmatch(tag))]
    return {claim["build"] for claim in claims if claim["channel"] == channel}
