"""Word the errors of the validator: a sentence and a hint for each kind of mistake."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from builder.errors import did_you_mean
from builder.spec.models import VariantFile

_MAX_SHOWN = 200


def worded(error: Any, key: tuple[str | int, ...]) -> tuple[str, str | None]:
    """Return a sentence and a hint for one of pydantic's errors about `key`."""
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    match kind:
        case "extra_forbidden":
            keys = _known_keys(key[:-1])
            hint = did_you_mean(str(key[-1]), keys)
            return "unknown key", hint or f"known here: {', '.join(sorted(keys))}"
        case "missing":
            return "is missing", "add `schema = 1`" if key == ("schema",) else None
        case "value_error":
            mistake = context["error"]
            return str(mistake), getattr(mistake, "hint", None)
        case "literal_error":
            return f"{_shown(value)} {_other_than(context['expected'], key)}", None
        case "greater_than_equal" | "less_than_equal":
            limit = context.get("ge", context.get("le"))
            bound = "at least" if kind == "greater_than_equal" else "at most"
            return f"{_shown(value)} must be {bound} {limit}", None
        case "string_pattern_mismatch":
            return f"{_shown(value)} is not an octal mode such as '0644'", None
        case "string_too_long":
            return f"is longer than {context['max_length']} characters", None
        case "string_too_short" | "too_short":
            return "is empty", None
    expected = {
        "string_type": "a string",
        "int_type": "a whole number",
        "bool_type": "true or false",
        "list_type": "a list",
        "dict_type": "a table",
        "model_type": "a table",
        "model_attributes_type": "a table",
    }.get(kind)
    if expected is None:
        return str(error["msg"]), None
    return f"expected {expected}, found {_shown(value)}", None


def _other_than(expected: str, key: tuple[str | int, ...]) -> str:
    if key == ("schema",):
        return f"is not supported; this version reads schema {expected}"
    return f"is not one of {expected}"


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:
        return "a number with thousands of digits"
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def _known_keys(path: Sequence[str | int]) -> list[str]:
    model: type[BaseModel] = VariantFile
    for part in path:
        if isinstance(part, int):
            continue
        for name, info in model.model_fields.items():
            if (info.alias or name) == part:
                inner = info.annotation
                inner = next(iter(getattr(inner, "__args__", ())), inner)
                if isinstance(inner, type) and issubclass(inner, BaseModel):
                    model = inner
    return [info.alias or name for name, info in model.model_fields.items()]
