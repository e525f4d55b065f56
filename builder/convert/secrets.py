"""Recognize what must not reach a spec, nor a comment in it.

More is recognized than in a spec: a source may hold any option of any program, and a quotation that
is left out costs nothing.
"""

from __future__ import annotations

import re

from builder.spec import secret_in
from builder.spec.secret_names import assigned, names_a_secret

_ADDRESS = re.compile(r":/{1,2}(?!git@)[^/\s'\"@…]{1,500}@")
# An option or a field with a value; `$NAME` refers to a secret and holds none.
_OPTION = re.compile(
    r"(?i)(?:pass(?:word|wd|phrase)?|token|secret|api[-_]?key|auth|authorization|bearer|credentials?)"
    r"['\"]?\s{0,5}[=:,\s]\s{0,5}['\"]?[^\s'\"$-]|(?:^|\s)-u\s{0,5}['\"]?[^\s'\":$]{1,200}:[^\s'\"$]"
)
_SHORTEST = 3


class Secrets:
    """The values of a source that are secret, because their names say so."""

    def __init__(self) -> None:
        self._values: set[str] = set()

    def is_secret(self, name: str, value: str) -> bool:
        """Return whether a variable is a secret, and recognize its value from now on."""
        if not names_a_secret(name, value) and not self.is_in(value):
            return False
        if len(value) >= _SHORTEST:
            self._values.add(value)
        return True

    def is_in(self, value: str) -> bool:
        """Return whether a value holds a secret."""
        return (
            bool(_ADDRESS.search(value))
            or secret_in(value) is not None
            or any(secret in value for secret in self._values)
        )

    def may_be_in(self, text: str) -> bool:
        """Return whether a command or a line may hold a secret."""
        return self.is_in(text) or bool(_OPTION.search(text)) or self.is_set_in(text)

    def is_set_in(self, text: str) -> bool:
        """Return whether a text gives a variable that is named like a secret a value."""
        return next(assigned(text), None) is not None
