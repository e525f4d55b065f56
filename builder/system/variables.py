"""Expand `$NAME` and `${NAME}` in the values of `[env]`; `$$` is a dollar sign.

Expanded values keep `$$`, and references to variables of the base image. Those get their values
with the lock, except `${PATH}`: each place where a value arrives expands it itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping

_REFERENCE = re.compile(
    r"\$(?:(?P<dollar>\$)|(?P<name>[A-Za-z_][A-Za-z0-9_]*)|\{(?P<braced>[A-Za-z_][A-Za-z0-9_]*)\})?"
)
_KEPT = re.compile(r"\$\$|\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class NoReferenceError(ValueError):
    """A `$` that begins no reference; the message and `hint` are for the user."""

    hint = "write `$$` for a dollar sign, `$NAME` or `${NAME}` for the value of a variable"


def expand(value: str, known: Mapping[str, str]) -> str:
    """Return `value` with the variables in `known`, which are expanded already; others stay
    references. Raise `NoReferenceError`."""

    def expanded(match: re.Match[str]) -> str:
        if match["dollar"]:
            return "$$"
        name = match["name"] or match["braced"]
        if name is None:
            raise NoReferenceError(f"{value!r} contains a `$` that begins no variable")
        return known.get(name, as_reference(name))

    return _REFERENCE.sub(expanded, value)


def references(value: str, known: Collection[str]) -> list[str]:
    """Return the names in `value` that are not in `known`. PATH of the base image is always known.
    Raise `NoReferenceError`."""
    names = (match[1] for match in _KEPT.finditer(expand(value, {})) if match[1])
    return [name for name in dict.fromkeys(names) if name not in known and name != "PATH"]


def substituted(value: str, values: Mapping[str, str]) -> str:
    """Return an expanded value with references replaced by `values`, which are expanded, too."""
    return written(
        value,
        literal=lambda text: text.replace("$", "$$"),
        reference=lambda name: values.get(name, as_reference(name)),
    )


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
