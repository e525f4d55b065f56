"""Expand `$NAME` and `${NAME}` in the values of `[env]`; `$$` is a dollar sign.

Expanded values keep `$$` and a `${PATH}` that stands for the PATH of the base image, the only
variable that every image has; each place where a value arrives expands those itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from builder.errors import did_you_mean

_REFERENCE = re.compile(
    r"\$(?:(?P<dollar>\$)|(?P<name>[A-Za-z_][A-Za-z0-9_]*)|\{(?P<braced>[A-Za-z_][A-Za-z0-9_]*)\})?"
)
_KEPT = re.compile(r"\$\$|\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class UnknownVariableError(ValueError):
    """A reference that has no value; the message and `hint` are for the user."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def expand(value: str, known: Mapping[str, str]) -> str:
    """Return `value` with the variables in `known`, which are expanded already. Raise
    `UnknownVariableError`."""

    def expanded(match: re.Match[str]) -> str:
        if match["dollar"]:
            return "$$"
        name = match["name"] or match["braced"]
        if name is None:
            raise UnknownVariableError(
                f"{value!r} contains a `$` that begins no variable",
                "write `$$` for a dollar sign, `$NAME` or `${NAME}` for the value of a variable",
            )
        if name in known:
            return known[name]
        if name == "PATH":
            return as_reference(name)
        near = did_you_mean(name, known)
        raise UnknownVariableError(
            f"`${name}` has no value: neither a line above nor an extended spec sets it, and of the"
            " base image only PATH can be used",
            f"{near + '; ' if near else ''}write `$${name}` for that text itself",
        )

    return _REFERENCE.sub(expanded, value)


def as_reference(name: str) -> str:
    """Return a reference that stays one."""
    return f"${{{name}}}"


def written(value: str, *, literal: Callable[[str], str], reference: Callable[[str], str]) -> str:
    """Return an expanded value, its text as `literal` writes it and the references that are left as
    `reference` writes them, by name."""
    parts: list[str] = []
    text, end = "", 0
    for match in _KEPT.finditer(value):
        text, end = text + value[end : match.start()], match.end()
        if match[0] == "$$":
            text += "$"
            continue
        parts += [literal(text)] if text else []
        parts.append(reference(match[1]))
        text = ""
    text += value[end:]
    if text or not parts:
        parts.append(literal(text))
    return "".join(parts)


def plain(value: str, *, path: str) -> str:
    """Return the text of an expanded value where the base image's PATH is `path`."""
    return written(value, literal=str, reference=lambda _: path)
