"""Which Python of this machine an environment is made with."""

from __future__ import annotations

import functools
import platform
import sys

from packaging.specifiers import SpecifierSet

from builder.errors import TemplateError
from builder.system import uv


@functools.cache
def choose(specifier: str) -> str | None:
    """The path of a Python that satisfies `specifier`: the one that runs this program if it does,
    else the first that uv finds; None when there is none."""
    if SpecifierSet(specifier).contains(platform.python_version(), prereleases=True):
        return getattr(sys, "_base_executable", None) or sys.executable
    try:
        path = uv.run(
            ["python", "find", "--system", "--no-project", "--no-python-downloads", specifier],
            doing=f"looking for Python {specifier}",
        )
    except TemplateError:
        return None
    return path.strip() or None
