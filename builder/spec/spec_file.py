"""A spec while it is read, with its mistakes."""

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
    """A TOML file of the variants folder.

    `name` and `extends` are as written, so that they can be checked in files with other mistakes;
    `model` is None if there are any.
    """

    stem: str
    shown: str
    text: str = ""
    model: VariantFile | None = None
    name: str | None = None
    extends: str | None = None
    problems: list[Problem] = field(default_factory=list)

    @property
    def shared(self) -> bool:
        """Whether the spec is abstract: extended by others and never built alone."""
        return self.stem.startswith("_")

    def problem(self, key: Sequence[str | int], message: str, hint: str | None = None) -> Problem:
        """Return a mistake at `key` of this file."""
        line, column = positions(self.text).of(key) if self.text else (0, 0)
        return Problem(self.shown, message, line=line, column=column, key=dotted(key), hint=hint)

    def add(self, key: Sequence[str | int], message: str, hint: str | None = None) -> None:
        """Note a mistake at `key` of this file."""
        self.problems.append(self.problem(key, message, hint))


@functools.lru_cache(maxsize=64)
def positions(text: str) -> Any:
    """Return the positions of the keys of a TOML document."""
    # Imported only when there is something to report.
    from builder.spec.positions import Positions

    return Positions(text)
