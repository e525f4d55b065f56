"""Choose the Python of this machine for an environment."""

from __future__ import annotations

import functools
import platform
import sys

from builder.errors import TemplateError
from builder.spec.python import at_least


@functools.cache
def choose(specifier: str) -> str | None:
    """Return the path of a Python that satisfies `specifier`: the one running this program if it
    does, else the first that uv finds, else None."""
    if _suits(specifier):
        return getattr(sys, "_base_executable", None) or sys.executable
    from builder.system import uv

    try:
        path = uv.run(
            ["python", "find", "--system", "--no-project", "--no-python-downloads", specifier],
            doing=f"looking for Python {specifier}",
        )
    except TemplateError:
        return None
    return path.strip() or None


def _suits(specifier: str) -> bool:
    """Return whether the Python running this program satisfies `specifier`."""
    if (minor := at_least(specifier)) is not None:
        return sys.version_info >= (3, minor, 0, "final")
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(specifier).contains(platform.python_version(), prereleases=True)
