"""Read the log of a build: which steps came from the cache, and which failed.

E2B's lines are `[base] FROM image [hash]`, `CACHED [builder 2/8] RUN … [hash]`,
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
# Lines about layers, and the reason for a failure, which the state of the build has, too.
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
class BuildLog:
    """The log so far, of a build with so many `steps`.

    `passed` is called with how many steps are over. `cached` and `ran` are numbers of steps, from
    1; `last` the last lines of output; `times` those of all lines; `phase` what runs after the
    steps; `base_fetched` is True if the base image was not cached.
    """

    steps: int
    passed: Callable[[int], None]
    cached: set[int] = field(default_factory=set)
    ran: set[int] = field(default_factory=set)
    times: list[dt.datetime] = field(default_factory=list)
    phase: str | None = None
    base_fetched: bool = False
    last: deque[str] = field(default_factory=lambda: deque(maxlen=_LAST_LINES))

    def read(self, line: str) -> int | None:
        """Read a line; return the number of the step if it is its first line, else None."""
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
        output = _OUTPUT.match(step["rest"])
        if output or number in self.cached or number in self.ran:
            self.last.append(output["text"] if output else step["rest"])
            return None
        self.last.clear()
        if step["cached"]:
            self.cached.add(number)
            self.passed(number)
        else:
            self.ran.add(number)
            self.passed(number - 1)
        return number

    def phase_or_step(self) -> str | None:
        """Return where the build was last, as E2B names it: "base", a step's number, "finalize"."""
        steps = self.cached | self.ran
        return self.phase or (str(max(steps)) if steps else "base" if self.last else None)

    def seconds(self) -> float:
        """Return the time from the first line to the last, by E2B's clock."""
        return (max(self.times) - min(self.times)).total_seconds() if self.times else 0.0
