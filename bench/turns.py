"""Let the sides take turns, each once per round, so that a noisy moment affects all of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import TypeVar

from bench.result import seconds

__all__ = ["spread", "take_turns"]

Measured = TypeVar("Measured")


def take_turns(
    sides: Mapping[str, Callable[[], Measured]], *, rounds: int
) -> dict[str, list[Measured]]:
    """Return the measurements of each side, one for each round.

    The first turn of each side is discarded: it writes byte code and fills caches. The order is
    reversed in every round, so that no side always benefits from the work of another.
    """
    measurements: dict[str, list[Measured]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name in list(sides) if number % 2 else reversed(list(sides)):
            turn = f"round {number} of {rounds}" if number else "warm-up"
            print(f"  {turn}: {name}", file=sys.stderr, flush=True)
            measured = sides[name]()
            if number:
                measurements[name].append(measured)
    return measurements


def spread(times: Sequence[float]) -> tuple[str, str, str]:
    """Return the median, fastest and slowest time, as cells of a table."""
    return seconds(median(times)), seconds(min(times)), seconds(max(times))
