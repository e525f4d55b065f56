"""What a benchmark is told: for how long, of which variants, and where it may work."""

from __future__ import annotations

from dataclasses import dataclass

from bench.workshop import Workshop

__all__ = ["Options"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """`rounds` is None for each benchmark's own number; `variants` are stems such as `data`."""

    workshop: Workshop
    rounds: int | None
    variants: tuple[str, ...]
