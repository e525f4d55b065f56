"""Moving a channel's tags on E2B to a verified build, so that of several the newest has them.

E2B moves a tag without looking where it is, and machines may know nothing of each other. So a
verified build first gets a tag of its own for the channel, its claim. The channel's tags are moved
from there, in one request, which E2B refuses when the claim is gone. Whoever moves a channel first
removes the claims of older builds; whoever finds the claim of a newer one moves nothing. Which is
newer is told by E2B's clock: the one that was asked for later.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping

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
    """Move the tags of `channel` to a build of `template`, and give it the tags `also`, unless some
    build has those; returns what takes that back.

    The builds `over` (None is all) give way though they are newer. Raises `OvertakenError` when
    another newer one has the channel; then it keeps it.
    """
    tags, claim = tags_of(channel), claim_of(channel, build_id)
    before = cloud.tags(template) or {}

    def take_back() -> None:
        _take_back(cloud, template, build_id, channel, before)

    def claims_of_others(known: Mapping[str, str]) -> set[str]:
        """The builds that claim the channel besides; a newer one ends it all."""
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
        # First without a claim: one that was removed must not come back while a newer one is there.
        claims_of_others(before)
        if missing := [tag for tag in (claim, *also) if tag not in before]:
            cloud.assign_tags(template, build_id, missing)
        now = cloud.tags(template) or {}
        claims = claims_of_others(now)
        if claims:
            cloud.remove_tags(template, sorted(claim_of(channel, other) for other in claims))
        # As long as others have claims, what was just read may have changed.
        if claims or any(now.get(tag) != build_id for tag in tags):
            _move(cloud, template, build_id, channel)
    except NetworkError:
        # They may have been moved all the same: the answer alone got lost.
        with contextlib.suppress(BuildError, NetworkError):
            take_back()
        raise
    return take_back


def _move(cloud: Cloud, template: str, build_id: str, channel: str) -> None:
    try:
        cloud.assign_tags(template, claim_of(channel, build_id), tags_of(channel))
    except BuildError:
        now = cloud.tags(template) or {}
        if claim_of(channel, build_id) in now:
            raise
        raise OvertakenError(channel, now.get(channel)) from None


def _published_before_claims(channel: str, now: Mapping[str, str]) -> set[str]:
    """The build that the channel is on without a claim: earlier versions made none."""
    build_id = now.get(channel)
    ours = any(is_digest_tag(tag) for tag, other in now.items() if other == build_id)
    return {build_id} if build_id and ours else set()


def _newest(cloud: Cloud, template_id: str, build_id: str, rivals: set[str]) -> str | None:
    """The newest of `rivals` that is newer than the build."""
    for other in cloud.newest_builds(template_id) if rivals - {build_id} else ():
        if other == build_id:
            return None
        if other in rivals:
            return other
    return None


def _help(cloud: Cloud, template: str, build_id: str, channel: str, now: Mapping[str, str]) -> None:
    """Move the channel to a build that has claimed it: whoever verified it may have been killed."""
    if claim_of(channel, build_id) in now and now.get(channel) != build_id:
        with contextlib.suppress(BuildError):  # it has been overtaken itself, or is there already
            cloud.assign_tags(template, claim_of(channel, build_id), tags_of(channel))


def _take_back(
    cloud: Cloud, template: str, build_id: str, channel: str, before: Mapping[str, str]
) -> None:
    """Put back those of the channel's tags that are on the build to where they were before."""
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
        raise BuildError(f"`{DEFAULT_TAG}`, which E2B does not remove, stays on {build_id}")
