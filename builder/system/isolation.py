"""How sandboxes on this machine are isolated. Uses only the standard library."""

from __future__ import annotations

import os
from typing import Literal

from builder.errors import ProjectError

Isolation = Literal["confined", "none"]
ISOLATIONS: tuple[Isolation, ...] = ("confined", "none")
VARIABLE = "TEMPLATE_ISOLATION"
DEFAULT: Isolation = "confined"
EXPECTED = '"confined" or "none"'


def isolation_of(requested: str | None, setting: Isolation | None) -> Isolation:
    """Return the requested isolation, else that in TEMPLATE_ISOLATION, else that of the settings,
    else the default. Raises `ValueError`, `ProjectError`."""
    if requested is not None:
        if requested not in ISOLATIONS:
            raise ValueError(f"isolation is {requested!r}, expected {EXPECTED}")
        return requested
    variable = os.environ.get(VARIABLE, "").strip()
    if variable and variable not in ISOLATIONS:
        raise ProjectError(f"{VARIABLE} is {variable!r}, expected {EXPECTED}")
    return variable or setting or DEFAULT
