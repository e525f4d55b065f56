"""From the failures of several variants to the one error that ends the command."""

from __future__ import annotations

from collections.abc import Mapping

from builder.errors import SeveralFailuresError, TemplateError

__all__ = ["raise_failures"]


def raise_failures(results: Mapping[str, object]) -> None:
    """Raise what failed: the error itself if it is one, or the same for all; else all together."""
    failures = {name: e for name, e in results.items() if isinstance(e, TemplateError)}
    if not failures:
        return
    distinct = {str(error): error for error in failures.values()}
    if len(distinct) == 1:
        raise next(iter(distinct.values()))
    several = SeveralFailuresError(failures)
    codes = {error.exit_code for error in failures.values()}
    if len(codes) == 1:
        several.exit_code = codes.pop()
    raise several
