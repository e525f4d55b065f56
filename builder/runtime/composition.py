"""TTA.dev's `>>` and `|`, if that library is installed."""

from __future__ import annotations

import importlib
from typing import Any

_BASES = ("tta_dev_primitives.core.base", "ttadev.primitives.core.base")


def composed(primitive: Any, other: Any, operator: str) -> Any:
    """Return what TTA.dev's own primitives make of `primitive >> other` or `primitive | other`.

    Returns NotImplemented if `other` is not one of them and the library is not installed.
    """
    base = next((c for c in type(other).__mro__ if c.__name__ == "WorkflowPrimitive"), None)
    if base is None and type(other) is type(primitive):
        base = _installed()
    if base is None:
        return NotImplemented
    register = getattr(base, "register", None)
    if register:
        register(type(primitive))
    return getattr(base, operator)(primitive, other)


def _installed() -> Any:
    for name in _BASES:
        try:
            return importlib.import_module(name).WorkflowPrimitive
        except ImportError:
            continue
    return None
