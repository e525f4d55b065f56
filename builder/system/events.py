"""What the inner rooms tell the outside while they work. They never print.

A `Reporter` takes events from any thread. It does not answer, and what it does with them (a live
display, plain lines, JSON lines) is `builder.cli.progress`'s business.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["note", "warning", "step", "detail", "done", "failed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One thing that happened; `variant` is None for the run as a whole, `seconds` is how long it
    took, `time` when it happened."""

    kind: Kind
    text: str
    variant: str | None = None
    seconds: float | None = None
    time: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC), compare=False)


Reporter = Callable[[Event], None]


def discard(_event: Event) -> None:
    """The reporter of who does not want to know."""
