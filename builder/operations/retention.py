"""Which recorded builds are needed, and why. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from builder.registry import history
from builder.registry.model import Entry


@dataclass(frozen=True, kw_only=True, slots=True)
class Keep:
    """What to keep of each template on each target: the `newest` builds, and what each channel can
    be rolled back to in as many `steps`."""

    newest: int
    steps: int


def needed(entry: Entry, keep: Keep) -> dict[str, str]:
    """Return ref → why it is needed, for the needed builds of a template on one target.

    Needed are what a channel points at or can be rolled back to, the newest builds, and the newest
    usable one, so the last good build is always among them.
    """
    builds = entry.builds
    reasons: dict[str, str] = {}
    for channel, ref in sorted(entry.channels.items()):
        reasons.setdefault(ref, f"channel {channel} points at it")
        earlier = [r for r in history.timeline(entry, channel)[:-1][::-1] if r in builds]
        usable = [r for r in dict.fromkeys(earlier) if not builds[r].is_revoked]
        for step, back in enumerate(usable[: keep.steps], 1):
            reasons.setdefault(back, f"{step} back from channel {channel}")
    by_age = history.newest_first(entry)
    for recent in by_age[: keep.newest]:
        reasons.setdefault(recent, f"among the newest {keep.newest}")
    good = [r for r in by_age if not builds[r].is_revoked]
    for newest in good[:1]:
        reasons.setdefault(newest, "the last good build")
    return {ref: why for ref, why in reasons.items() if ref in builds}
