"""What every change of the registry says of itself."""

from __future__ import annotations

from dataclasses import dataclass

from builder.registry import DEFAULT_CHANNEL


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A change of a template on one target, who makes it and why; `channel` is the one that it
    moves."""

    name: str
    target: str
    by: str
    reason: str | None = None
    channel: str = DEFAULT_CHANNEL
