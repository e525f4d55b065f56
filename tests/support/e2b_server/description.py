"""Check requests and responses against E2B's description of its API, in `description.yaml`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

_TIME = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$"
_UUID = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
_BANNED = 403  # for every call of a banned team
_TYPES: dict[str, dict[str, Any]] = {
    "text": {"type": "string"},
    "integer": {"type": "integer"},
    "boolean": {"type": "boolean"},
    "time": {"type": "string", "pattern": _TIME},
    "uuid": {"type": "string", "pattern": _UUID},
    "map": {"type": "object", "additionalProperties": {"type": "string"}},
    "anything": {},
    "null": {"type": "null"},
}


@dataclass(frozen=True, kw_only=True)
class Call:
    """What checks the parameters, request and responses of a call; None is no body."""

    asks: Draft202012Validator | None
    query: Draft202012Validator
    answers: dict[int, Draft202012Validator | None] = field(default_factory=dict)

    def misfit(self, code: int, value: Any) -> str | None:
        """Return what is wrong with a response, or None."""
        if code not in self.answers:
            return f"status {code} is not one of {sorted(self.answers)}"
        expected = self.answers[code]
        if expected is None:
            return None if value is None else f"status {code} has no body"
        return misfit(expected, value)

    def misfit_of_query(self, query: dict[str, str]) -> str | None:
        """Return what is wrong with the parameters of a request, or None."""
        whole = {key: int(text) if text.isdecimal() else text for key, text in query.items()}
        texts = {"metadata", "nextToken", "teamID", "template"}
        return misfit(self.query, whole | {key: query[key] for key in texts & query.keys()})


def misfit(expected: Draft202012Validator, value: Any) -> str | None:
    """Return why a value does not fit a schema, or None."""
    for error in expected.iter_errors(value):
        return f'Error at "/{"/".join(str(part) for part in error.absolute_path)}": {error.message}'
    return None


@cache
def calls() -> dict[str, Call]:
    """Return every call, by its method and path with `{}` for each parameter."""
    return {
        shape(call): Call(
            asks=_validator(_type(facts["asks"])) if "asks" in facts else None,
            query=_validator(_object(facts.get("query", {}))),
            answers={
                code: None if answer == "nothing" else _validator(_type(answer))
                for code, answer in facts["answers"].items()
            }
            | {
                code: _validator(_type("Error"))
                for code in (*facts["errors"], *facts.get("also", ()), _BANNED)
            },
        )
        for call, facts in _facts()["calls"].items()
    }


def shape(call: str) -> str:
    """Return a method and path without the names of the path's parameters."""
    return re.sub(r"\{\w+\}", "{}", call)


@cache
def objects() -> dict[str, dict[str, str]]:
    """Return the fields of each object, by its name."""
    fields: dict[str, dict[str, str]] = _facts()["objects"]
    return fields


@cache
def _facts() -> dict[str, Any]:
    facts: dict[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
    return facts


@cache
def _objects() -> dict[str, dict[str, Any]]:
    return {name: _object(fields) for name, fields in objects().items()}


def _validator(schema: dict[str, Any]) -> Draft202012Validator:
    return Draft202012Validator(schema | {"$defs": _objects()})


def _object(fields: dict[str, str]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": [name for name in fields if not name.endswith("?")],
        "properties": {name.rstrip("?"): _type(text) for name, text in fields.items()},
        "additionalProperties": False,
    }


def _type(text: str) -> dict[str, Any]:
    if text.startswith("["):
        return {"type": "array", "items": _type(text[1:-1])}
    if " | " in text:
        return {"enum": text.split(" | ")}
    if " or " in text:
        return {"anyOf": [_type(part) for part in text.split(" or ")]}
    kind, _, bounds = text.partition(" of ")
    if kind not in _TYPES:
        return {"$ref": f"#/$defs/{kind}"}
    schema = dict(_TYPES[kind])
    for bound in bounds.split(" and ") if bounds else []:
        word, _, number = bound.removeprefix("at ").partition(" ")
        keys = {"text": "Length"}.get(kind, "imum")
        schema[{"least": "min", "most": "max"}[word] + keys] = int(number)
    return schema
