"""Python in a spec: code, and the versions that run it."""

from __future__ import annotations

import ast
import re
import warnings

_MINORS = range(8, 30)
_AT_LEAST = re.compile(r">= ?3\.([0-9]+)")


def python_floor(specifier: str) -> str:
    """Return the lowest Python ("3.11") that `specifier` allows, else raise `ValueError`."""
    if (minor := at_least(specifier)) in _MINORS:
        return f"3.{minor}"
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        allowed = SpecifierSet(specifier)
    except InvalidSpecifier as error:
        raise ValueError(f"{specifier!r} is not a version specifier such as '>=3.11'") from error
    # The first and last patch decide for most, as for ">3.11" or ">=3.11.4"; "==3.11.4" needs those
    # between. Trying them all would cost more than everything else in a spec.
    for patches in ((0, 99), range(1, 99)):
        for minor in _MINORS:
            if any(allowed.contains(f"3.{minor}.{patch}") for patch in patches):
                return f"3.{minor}"
    raise ValueError(f"no Python from 3.{_MINORS[0]} on satisfies {specifier!r}")


def at_least(specifier: str) -> int | None:
    """Return N for the usual specifier `>=3.N`, without packaging, which is slow to load."""
    match = _AT_LEAST.fullmatch(specifier)
    return int(match[1]) if match else None


def python_code(value: str) -> str:
    """Return Python code, else raise `ValueError`."""
    with warnings.catch_warnings(action="ignore"):
        try:
            ast.parse(value)
        except (SyntaxError, ValueError, RuntimeError, MemoryError) as error:
            line = getattr(error, "lineno", None)
            where = f" (its line {line})" if line else ""
            raise ValueError(
                f"is not Python code: {getattr(error, 'msg', 'too deeply nested')}{where}"
            ) from error
    return value
