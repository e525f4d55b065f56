"""Taking turns: every side once per round, so that a noisy moment hits all of them."""

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
    """What each side measured, round by round.

    The first turn of each side is thrown away: it is there to write byte code and fill caches.
    Who begins changes from round to round, so that none always finds what another left behind.
    """
    found: dict[str, list[Measured]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name in list(sides) if number % 2 else reversed(list(sides)):
            of = f"round {number} of {rounds}" if number else "warm-up"
            print(f"  {of}: {name}", file=sys.stderr, flush=True)
            measured = sides[name]()
            if number:
                found[name].append(measured)
    return found


def spread(times: Sequence[float]) -> tuple[str, str, str]:
    """Median, fastest and slowest, as cells of a table."""
    return seconds(median(times)), seconds(min(times)), seconds(max(times))
