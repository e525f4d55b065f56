"""What an account on E2B has of templates, as their tags tell it, and letting go of it."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from builder.build import Needs, Tagged, Waste
from builder.errors import BuildError
from builder.registry import DEFAULT_CHANNEL
from builder.targets.e2b.building import digest_tag
from builder.targets.e2b.cloud import Cloud

__all__ = ["Inventory", "tags_of"]

_DEFAULT_TAG = "default"
_DIGEST_TAG = re.compile(r"sha256-[0-9a-f]{64}")


class Inventory:
    """The templates of one account."""

    def __init__(self, *, name: str, cloud: Cloud) -> None:
        """`name` is what the target is called."""
        self.name = name
        self._cloud = cloud

    def examine(self, ref: str) -> dict[str, Any]:
        """Look for a template of the account, by its ID (or name) and a build of it."""
        asked, _, build_id = ref.partition(":")
        tags = self._cloud.tags(asked)
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
        wanted = build_id or tags.get(_DEFAULT_TAG)
        if wanted is None:
            raise BuildError(
                f"`{asked}` has no tag `{_DEFAULT_TAG}` on {self.name}: its bare ID starts nothing",
                hint="name a build of it: "
                + (
                    ", ".join(f"{asked}:{one}" for one in sorted({*tags.values()})) or "it has none"
                ),
            )
        template_id = self._cloud.template_id(asked) or asked
        status = self._cloud.state(template_id, wanted, 0).status
        if status != "ready":
            raise BuildError(f"the build {wanted} of `{asked}` is not ready: {status}")
        return {"template_id": template_id}

    def tagged(self, name: str) -> list[Tagged]:
        """The finished builds of template `name`, with the channels that lead to them."""
        template_id = self._cloud.template_id(name)
        builds: dict[str, list[str]] = {}
        for tag, build_id in (self._cloud.tags(name) or {}).items():
            builds.setdefault(build_id, []).append(tag)
        found = []
        for build_id, tags in sorted(builds.items()):
            if template_id is None or not self.usable(name, build_id):
                continue
            digests = [tag.replace("-", ":", 1) for tag in tags if _DIGEST_TAG.fullmatch(tag)]
            channels = [tag for tag in tags if not _DIGEST_TAG.fullmatch(tag)]
            found.append(
                Tagged(
                    ref=f"{template_id}:{build_id}",
                    template_id=template_id,
                    build_id=build_id,
                    digest=digests[0] if len(digests) == 1 else None,
                    channels=tuple(sorted(one for one in channels if one != _DEFAULT_TAG)),
                )
            )
        return found

    def unused(self, templates: Mapping[str, Any], needs: Needs, protect: float) -> list[Waste]:
        """The tags of builds that nothing needs: E2B has no call that deletes one build, but what
        no tag leads to is not taken for another build of the same digest any more."""
        busy = self._cloud.running_templates()
        limit = dt.datetime.now(dt.UTC).timestamp() - protect
        found = []
        for name, entry in templates.items():
            made = {
                one.get("build_id"): one
                for one in entry.get("builds", {}).values()
                if one.get("origin", "built") == "built"
            }
            for tag, build_id in (self._cloud.tags(name) or {}).items():
                digest = tag.replace("-", ":", 1)
                record = made.get(build_id)
                if record is None or digest_tag(str(record.get("digest"))) != tag:
                    continue  # not made here, or not a tag of ours
                young = _seconds(record.get("built_at")) > limit
                if young or record["template_id"] in busy or needs("", digest):
                    continue
                found.append(
                    Waste(
                        kind="tag",
                        identity=f"{name}:{tag}",
                        subject=build_id,
                        size=None,
                        why="no channel needs its build",
                    )
                )
        return found

    def remove(self, waste: Waste) -> str | None:
        """Remove a tag."""
        name, _, tag = waste.identity.partition(":")
        self._cloud.remove_tags(name, [tag])
        return None

    def usable(self, name: str, build_id: str | None) -> bool:
        """Whether a build of `name` is there and ready."""
        template_id = self._cloud.template_id(name) if build_id else None
        if build_id is None or template_id is None:
            return False
        try:
            return self._cloud.state(template_id, build_id, 0).status == "ready"
        except BuildError:
            return False

    def withdraw(
        self, name: str, builds: Sequence[Mapping[str, Any]], *, channels: Sequence[str]
    ) -> Callable[[], None] | None:
        """Remove the tags of `channels`, and those of the digests of `builds`."""
        before = self._cloud.tags(name) or {}
        tags = {tag for channel in channels for tag in tags_of(channel) if tag in before}
        for fields in builds:
            tag = digest_tag(str(fields.get("digest")))
            if before.get(tag) == fields.get("build_id"):
                tags.add(tag)
        if not tags:
            return None
        self._cloud.remove_tags(name, sorted(tags))

        def take_back() -> None:
            for build_id in sorted({before[tag] for tag in tags}):
                again = sorted(tag for tag in tags if before[tag] == build_id)
                self._cloud.assign_tags(name, build_id, again)

        return take_back


def _seconds(moment: Any) -> float:
    """Seconds since the epoch; of what cannot be read, so many that it counts as new."""
    try:
        return dt.datetime.fromisoformat(moment).timestamp()
    except (TypeError, ValueError):
        return float("inf")


def tags_of(channel: str) -> list[str]:
    """`default` is what a bare name means on E2B: it follows the channel that a bare name means
    here."""
    return [_DEFAULT_TAG, channel] if channel == DEFAULT_CHANNEL else [channel]
