"""From the log of a build to what happened in it: which steps came from the cache, what failed.

The form of the lines is E2B's own: `[base] FROM image [hash]`, `CACHED [builder 2/8] RUN … [hash]`,
`[builder 3/8] [stdout]: …`, `[finalize] …`, `Build failed: …`.
"""

from __future__ import annotations

import datetime as dt
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

_STEP = re.compile(
    r"(?P<cached>CACHED )?\[builder (?P<step>\d+)/(?P<steps>\d+)\] (?P<rest>.*)", re.DOTALL
)
_BASE = re.compile(r"\[base\] FROM ")
_PHASE = re.compile(r"(?:CACHED )?\[(?P<phase>resize-disk|finalize|optimize)\] ")
# Where layers go, also those of the step before; and the reason, which the build's state has, too.
_ASIDE = (
    "Adding layer to cache: ",
    "Uploading layer: ",
    "Saved: ",
    "Updating envd to ",
    "Build failed: ",
)
_OUTPUT = re.compile(r"\[(?:stdout|stderr)\]: ?(?P<text>.*)", re.DOTALL)
_LAST_LINES = 15


@dataclass(kw_only=True, slots=True)
class Followed:
    """What the log has told so far. `steps` is how many there are, `passed` is told how many are
    over, `cached` and `ran` are numbers of steps from 1, `last` the last lines of the output,
    `times` those of all lines, `phase` what runs after the steps, `base_fetched` whether the base
    image was not in the cache."""

    steps: int
    passed: Callable[[int], None]
    cached: set[int] = field(default_factory=set)
    ran: set[int] = field(default_factory=set)
    times: list[dt.datetime] = field(default_factory=list)
    phase: str | None = None
    base_fetched: bool = False
    last: deque[str] = field(default_factory=lambda: deque(maxlen=_LAST_LINES))

    def line(self, line: str) -> int | None:
        """Take one line; the number of the step that it is the first one of, or None."""
        step = _STEP.match(line)
        if step is None:
            if _BASE.match(line):
                self.base_fetched = True
            if phase := _PHASE.match(line):
                self.phase = phase["phase"]
                self.last.clear()
                self.passed(self.steps)
            elif not line.startswith(_ASIDE):
                self.last.append(line)
            return None
        number = int(step["step"])
        if output := _OUTPUT.match(step["rest"]):
            self.last.append(output["text"])
            return None
        if number in self.cached or number in self.ran:
            self.last.append(step["rest"])
            return None
        self.last.clear()
        if step["cached"]:
            self.cached.add(number)
            self.passed(number)
        else:
            self.ran.add(number)
            self.passed(number - 1)
        return number

    def at(self) -> str | None:
        """Where the build was last, as E2B names it: "base", the number of a step, "finalize"."""
        seen = self.cached | self.ran
        return self.phase or (str(max(seen)) if seen else "base" if self.last else None)

    def seconds(self) -> float:
        """From the first line to the last, by E2B's own clock."""
        return (max(self.times) - min(self.times)).total_seconds() if self.times else 0.0

    def missed(self, expected_cached: int) -> list[int]:
        """The steps that ran although the first `expected_cached` should have been cached."""
        return sorted(number for number in self.ran if number <= expected_cached)
