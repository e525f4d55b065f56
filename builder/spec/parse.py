"""Parse a spec, and validate its tables with the models. This loads pydantic."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from builder.errors import Problem
from builder.spec.models import TABLES, VariantFile
from builder.spec.network import KINDS
from builder.spec.secret_shapes import NO_SECRETS, secrets_of
from builder.spec.spec_file import SpecFile
from builder.spec.validated import Table
from builder.spec.wording import worded
from builder.system.documents import NestingError, parse_toml

# More digits than Python converts to a number.
_TOO_LONG_NUMBER = re.compile(r"[0-9_]{4301,}")
_MAX_DEPTH = 20
# Keys that do not affect what a stage builds, or belong to its parents.
_DESCRIBING = {"schema_version", "name", "description", "extends"}
_DEFAULTS = {
    table: {key: field.default for key, field in model.model_fields.items()}
    for table, model in TABLES.items()
}


def parse(file: SpecFile) -> None:
    """Set the tables of a spec, or note its mistakes."""
    try:
        document = parse_toml(file.text, max_depth=_MAX_DEPTH)
    except NestingError as error:
        # Too deep for both the validator and the search for positions.
        line, column = (0, 0) if error.offset is None else _place(file.text, error.offset)
        message = f"is nested deeper than {_MAX_DEPTH} levels"
    except ValueError as error:
        message = re.sub(r" \(at .*\)$", "", str(error))
        line, column = _place(file.text, len(file.text))
        if too_long := _TOO_LONG_NUMBER.search(file.text):
            line, column = _place(file.text, too_long.start())
            message = "a number with thousands of digits"
        elif place := re.search(r" \(at line (\d+), column (\d+)\)$", str(error)):
            line, column = int(place[1]), int(place[2])
        message = f"is not valid TOML: {message}"
    else:
        _validate(document, file)
        return
    file.problems.append(Problem(file.shown, message, line=line, column=column))


def _place(text: str, offset: int) -> tuple[int, int]:
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)


def mistakes_in(document: Mapping[str, Any]) -> list[str]:
    """Return the mistakes in tables of a spec; the keys that every spec needs may be missing."""
    return [
        f"{message} ({hint})" if hint else message
        for _, message, hint in _check({"schema": 1} | dict(document))[1]
    ]


def _validate(document: Mapping[str, Any], file: SpecFile) -> None:
    name, extends = document.get("name"), document.get("extends")
    file.name = name if isinstance(name, str) else None
    file.extends = extends if isinstance(extends, str) else None
    model, mistakes = _check(document)
    for mistake in mistakes:
        file.add(*mistake)
    if model:
        declared = model.model_dump(mode="json", exclude_unset=True, exclude=_DESCRIBING)
        file.declared = json.dumps(declared, sort_keys=True)
        file.model, file.defaults = _plain(model), _DEFAULTS


def _plain(value: Any) -> Any:
    """Return the tables of a model in the form that the cache keeps."""
    if isinstance(value, BaseModel):
        fields = {name: _plain(field) for name, field in value}
        return Table(fields, sorted(value.model_fields_set))
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _check(
    document: Mapping[str, Any],
) -> tuple[VariantFile | None, list[tuple[tuple[str | int, ...], str, str | None]]]:
    """Return the model of a spec, or None and all mistakes: key, message and hint."""
    # First, since the messages of later checks repeat the values.
    if secrets := list(secrets_of(document)):
        return None, [(key, f"{kind}; {NO_SECRETS}", None) for key, kind in secrets]
    try:
        return VariantFile.model_validate(document), []
    except ValidationError as error:
        mistakes = []
        for mistake in error.errors(include_url=False):
            key = tuple(part for part in mistake["loc"] if part not in ("[key]", *KINDS))
            mistakes.append((key, *worded(mistake, key)))
        return None, mistakes
