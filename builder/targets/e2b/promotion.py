"""Move a channel's tags on E2B to a verified build, so that the newest of several keeps them.

E2B moves a tag wherever it is, and machines may not know of each other. So a verified build first
gets a tag of its own for the channel, its claim. A second request moves the channel's tags from the
claim, and E2B refuses it if the claim is gone. A move first removes the claims of older builds; the
claim of a newer build prevents it. The newer build is the one requested later, by E2B's clock.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from functools import partial

from builder.errors import BuildError, NetworkError
from builder.targets.e2b.cloud import Cloud
from builder.targets.e2b.inventory import DEFAULT_TAG, claim_of, claims_on, is_digest_tag, tags_of
from builder.targets.protocol import OvertakenError


def promote(
    cloud: Cloud,
    template: str,
    template_id: str,
    build_id: str,
    channel: str,
    *,
    also: Collection[str],
    over: Collection[str] | None,
) -> Callable[[], None]:
    """Move the tags of `channel` to a build of `template`; return a function that undoes it.

    The build also gets the tags `also` that no build has. The builds `over` (None is all) give way
    even if they are newer. Raises `OvertakenError` if another newer build has the channel.
    """
    tags, claim = tags_of(channel), claim_of(channel, build_id)
    before = cloud.tags(template) or {}
    undo = partial(_undo, cloud, template, build_id, channel, before)

    def claims_of_others(known: Mapping[str, str]) -> set[str]:
        """Return the other builds that claim the channel, unless one is newer."""
        claims = claims_on(channel, known) - {build_id}
        rivals = claims | _published_before_claims(channel, known)
        gives_way = rivals if over is None else {*over}
        if newer := _newest(cloud, template_id, build_id, rivals - gives_way):
            if claim in known:
                cloud.remove_tags(template, [claim])
            _help(cloud, template, newer, channel, known)
            raise OvertakenError(channel, newer)
        return claims

    try:
        # First without a claim: a removed one must not reappear while a newer build has one.
        claims_of_others(before)
        if missing := [tag for tag in (claim, *also) if tag not in before]:
            cloud.assign_tags(template, build_id, missing)
        now = cloud.tags(template) or {}
        claims = claims_of_others(now)
        if claims:
            cloud.remove_tags(template, sorted(claim_of(channel, other) for other in claims))
        # While others have claims, the tags may have changed since.
        if claims or any(now.get(tag) != build_id for tag in tags):
            _move(cloud, template, build_id, channel)
    except NetworkError:
        # The tags may have moved anyway: perhaps only the response was lost.
        with contextlib.suppress(BuildError, NetworkError):
            undo()
        raise
    return undo


def _move(cloud: Cloud, template: str, build_id: str, channel: str) -> None:
    try:
        cloud.assign_tags(template, claim_of(channel, build_id), tags_of(channel))
    except BuildError:
        now = cloud.tags(template) or {}
        if claim_of(channel, build_id) in now:
            raise
        raise OvertakenError(channel, now.get(channel)) from None


def _published_before_claims(channel: str, now: Mapping[str, str]) -> set[str]:
    """Return the channel's build if it has no claim: earlier versions made none."""
    build_id = now.get(channel)
    ours = any(is_digest_tag(tag) for tag, other in now.items() if other == build_id)
    return {build_id} if build_id and ours else set()


def _newest(cloud: Cloud, template_id: str, build_id: str, rivals: set[str]) -> str | None:
    """Return the newest of `rivals`, if it is newer than the build."""
    for other in cloud.newest_builds(template_id) if rivals - {build_id} else ():
        if other == build_id:
            return None
        if other in rivals:
            return other
    return None


def _help(cloud: Cloud, template: str, build_id: str, channel: str, now: Mapping[str, str]) -> None:
    """Move the channel to a build that claims it: the run that verified it may have been killed."""
    if claim_of(channel, build_id) in now and now.get(channel) != build_id:
        with contextlib.suppress(BuildError):  # it is overtaken itself, or has the channel already
            cloud.assign_tags(template, claim_of(channel, build_id), tags_of(channel))


def _undo(
    cloud: Cloud, template: str, build_id: str, channel: str, before: Mapping[str, str]
) -> None:
    """Return those of the channel's tags that are on the build to where they were."""
    tags, now = tags_of(channel), cloud.tags(template) or {}
    moved = [tag for tag in tags if now.get(tag) == build_id != before.get(tag)]
    for other in {before[tag] for tag in moved if tag in before}:
        again = [tag for tag in moved if before.get(tag) == other]
        if claim_of(channel, other) in before:
            again.append(claim_of(channel, other))
        cloud.assign_tags(template, other, again)
    new = {tag for tag in (*moved, claim_of(channel, build_id)) if tag in now and tag not in before}
    if removable := sorted(new - {DEFAULT_TAG}):
        cloud.remove_tags(template, removable)
    if DEFAULT_TAG in new:
        raise BuildError(f"`{DEFAULT_TAG}` stays on {build_id}: E2B does not remove that tag")
