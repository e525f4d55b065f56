"""A spec while it is read, with its mistakes."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from builder.errors import Problem

if TYPE_CHECKING:
    from builder.spec.models import VariantFile

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(kw_only=True)
class SpecFile:
    """A TOML file of the variants folder.

    `name` and `extends` are as written, so that they can be checked in files with other mistakes;
    `model` is None if there are any. `declared` is what the spec sets and affects its stage, as
    JSON; `defaults` are the values of each table that is not there.
    """

    stem: str
    shown: str
    text: str = ""
    model: VariantFile | None = None
    declared: str = ""
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    name: str | None = None
    extends: str | None = None
    problems: list[Problem] = field(default_factory=list)

    @property
    def shared(self) -> bool:
        """Whether the spec is abstract: extended by others and never built alone."""
        return self.stem.startswith("_")

    @property
    def tables(self) -> VariantFile:
        """The content of a spec without mistakes."""
        assert self.model
        return self.model

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


def dotted(key: Sequence[str | int]) -> str:
    """Return a key as written in TOML, such as `files[0].source`, quoted where necessary."""
    text = ""
    for part in key:
        if isinstance(part, int):
            text += f"[{part}]"
            continue
        shown = part if _BARE_KEY.fullmatch(part) else json.dumps(part, ensure_ascii=True)
        text += f".{shown}" if text else shown
    return text
