"""The value that describes a change of the registry."""

from __future__ import annotations

from dataclasses import dataclass

from builder.registry import DEFAULT_CHANNEL


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """Who changes a template on one target and why; `channel` is the channel that moves, if any."""

    name: str
    target: str
    by: str
    reason: str | None = None
    channel: str = DEFAULT_CHANNEL
