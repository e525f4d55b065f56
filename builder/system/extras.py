"""What the extras of this package install, and the error that names one that is missing.

The standard library alone: the registry's read side uses it.
"""

from __future__ import annotations

import contextlib

from builder.errors import MissingExtraError

if False:  # for type checkers; importing typing costs as much as all the rest
    from collections.abc import Iterator


@contextlib.contextmanager
def needs(extra: str | None = None) -> Iterator[None]:
    """Import within the `with` block what `extra` installs, or this package itself does, with what
    it depends on. Raises `MissingExtraError`."""
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module == "builder":
            raise
        if extra is None:
            raise MissingExtraError(
                f"`{module}` is not installed: without its dependencies, template-builder only"
                " looks up names, with `builder.registry`",
                hint="pip install template-builder",
            ) from error
        raise MissingExtraError(
            f"`{module}` is not installed, which is in the extra `{extra}`",
            hint=f"pip install 'template-builder[{extra}]'",
        ) from error
