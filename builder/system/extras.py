"""The error that names the extra to install.

Uses only the standard library, for the registry's read side.
"""

from __future__ import annotations

import contextlib

from builder.errors import MissingExtraError

if False:  # for type checkers; importing typing costs as much as all the rest
    from collections.abc import Iterator


@contextlib.contextmanager
def needs(extra: str | None = None) -> Iterator[None]:
    """Import dependencies of `extra`, or of the package itself, in the `with` block. Raises
    `MissingExtraError`."""
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module == "builder":
            raise
        if extra is None:
            raise MissingExtraError(
                f"`{module}` is not installed: without its dependencies, template-builder can only"
                " look up names, with `builder.registry`",
                hint="pip install template-builder",
            ) from error
        raise MissingExtraError(
            f"`{module}` is not installed; it is part of the extra `{extra}`",
            hint=f"pip install 'template-builder[{extra}]'",
        ) from error
