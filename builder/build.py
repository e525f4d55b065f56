"""What a target does with a planned variant: the shape of a builder and of what it has built.

The building itself is in `builder.targets`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from builder.events import Reporter
from builder.logs import Log
from builder.render import Rendered

__all__ = ["Builder", "Built"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """One finished, not yet verified build.

    `seconds` is what making it took; `reused` that it was there already, and then `seconds` is
    what it took when it was made. `cold` is seconds by warm-up import without byte code, where the
    builder could measure that. `size` is in bytes.
    """

    name: str
    target: str
    ref: str
    template_id: str
    build_id: str
    digest: str
    seconds: float
    reused: bool
    size: int
    cold: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class Builder(Protocol):
    """The part of a target that makes builds."""

    def build(self, rendered: Rendered, *, force: bool, report: Reporter, log: Log) -> Built:
        """Make the build, or find it made. Raises `BuildError` and its kin; then nothing is left
        but what the next run can use."""
        ...
