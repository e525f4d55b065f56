"""One TOML file of the variants folder while it is read, with the mistakes in it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from builder.errors import Problem
from builder.spec.models import VariantFile
from builder.spec.wording import dotted


@dataclass(kw_only=True)
class SpecFile:
    """`name` and `extends` are as written, so that names and chains are checked in files that have
    other mistakes, too; `model` is None where there are any."""

    stem: str
    shown: str
    text: str = ""
    model: VariantFile | None = None
    name: str | None = None
    extends: str | None = None
    problems: list[Problem] = field(default_factory=list)

    @property
    def shared(self) -> bool:
        """Whether it is a stage that others extend, and never built alone."""
        return self.stem.startswith("_")

    def problem(self, key: Sequence[str | int], message: str, hint: str | None = None) -> Problem:
        """A mistake at `key` of this file."""
        line, column = positions(self.text).of(key) if self.text else (0, 0)
        return Problem(self.shown, message, line=line, column=column, key=dotted(key), hint=hint)

    def add(self, key: Sequence[str | int], message: str, hint: str | None = None) -> None:
        """Note a mistake at `key` of this file."""
        self.problems.append(self.problem(key, message, hint))


@functools.lru_cache(maxsize=64)
def positions(text: str) -> Any:
    """Where the keys of a TOML document stand."""
    # Loaded when there is something to report, and never otherwise.
    from builder.spec.positions import Positions

    return Positions(text)
