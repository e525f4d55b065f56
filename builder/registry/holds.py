"""Channels that are on hold: builds are recorded and do not move them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Hold", "hold_of"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Hold:
    """A rollback that a channel stands at: since when, by whom, and why."""

    at: str
    by: str
    reason: str | None = None

    def __str__(self) -> str:
        return f"held since {self.at} by {self.by}" + (f": {self.reason}" if self.reason else "")

    def to_json(self) -> dict[str, str | None]:
        """The hold as plain values."""
        return {"at": self.at, "by": self.by, "reason": self.reason}


def hold_of(entry: Mapping[str, Any], channel: str) -> Hold | None:
    """The hold on `channel` of a template, of which `entry` is what the registry has for a target;
    None where builds move it."""
    held = entry.get("holds", {}).get(channel)
    if held is None:
        return None
    return Hold(at=held["at"], by=held["by"], reason=held.get("reason"))
