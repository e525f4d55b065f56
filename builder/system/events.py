"""Events: how the inner rooms report their progress. They never print.

A `Reporter` takes events from any thread. `builder.cli.progress` decides how to show them: a live
display, plain lines or JSON lines.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["note", "warning", "step", "detail", "done", "failed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One event. `variant` names the template, None for the run as a whole; `seconds` is how long
    it took."""

    kind: Kind
    text: str
    variant: str | None = None
    seconds: float | None = None
    time: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC), compare=False)


Reporter = Callable[[Event], None]


def discard(_event: Event) -> None:
    """Discard every event."""
