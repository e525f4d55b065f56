"""From the failures of several templates to the one error that ends the command."""

from __future__ import annotations

from collections.abc import Mapping

from builder.errors import SeveralFailuresError, TemplateError


def failure_of(results: Mapping[str, object]) -> TemplateError | None:
    """Return the error, if it is one or the same for all; else one error that holds them all."""
    failures = {name: e for name, e in results.items() if isinstance(e, TemplateError)}
    if not failures:
        return None
    distinct = {str(error): error for error in failures.values()}
    if len(distinct) == 1:
        return next(iter(distinct.values()))
    several = SeveralFailuresError(failures)
    codes = {error.exit_code for error in failures.values()}
    if len(codes) == 1:
        several.exit_code = codes.pop()
    return several
