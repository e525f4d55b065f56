"""The options of a benchmark: its rounds, its variants and its working folder."""

from __future__ import annotations

from dataclasses import dataclass

from bench.workshop import Workshop

__all__ = ["Options"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """If `rounds` is None, each benchmark uses its own number; `variants` are stems like `data`."""

    workshop: Workshop
    rounds: int | None
    variants: tuple[str, ...]
