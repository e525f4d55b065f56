"""The result of a benchmark: a table, and its targets with the measured values."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Result", "Target", "ratio", "seconds"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A target: `value`, the measured ratio or time of `what`, should be at most `limit`."""

    what: str
    value: float
    limit: float
    unit: str = ""

    @property
    def met(self) -> bool:
        """Whether the value is within the limit."""
        return self.value <= self.limit

    def __str__(self) -> str:
        verdict = "met" if self.met else "**not met**"
        shown = f"{self.value:.2f}" if self.value < 100 else f"{self.value:.0f}"
        limit = f"{self.limit:.3g}{self.unit}"
        return f"{self.what}: {shown}{self.unit}, target at most {limit}: {verdict}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """The outcome of a benchmark. `measured` describes the rows of the table."""

    title: str
    measured: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    targets: tuple[Target, ...] = ()
    notes: tuple[str, ...] = ()


def seconds(value: float) -> str:
    """Format a duration in seconds, with its significant digits."""
    if value >= 1:
        return f"{value:.2f} s"
    if value < 1e-4:
        return f"{value * 1e6:.0f} µs"
    return f"{value * 1e3:.0f} ms" if value >= 0.01 else f"{value * 1e3:.2f} ms"


def ratio(value: float) -> str:
    """Format a ratio for a table."""
    return f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"
