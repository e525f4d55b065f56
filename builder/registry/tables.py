"""Tables of a JSON file as dataclasses: each attribute is a key, its annotation the key's shape.

Reading, checking, writing and the JSON schema follow from those. Unknown keys are kept.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ParamSpec, Self, TypeVar, Union, get_args, get_origin, get_type_hints

from builder.sandbox.network import ALLOW, EXPECTED, NONE, InvalidNetworkError, Network

_P = ParamSpec("_P")
_T = TypeVar("_T")

_LARGEST = 1 << 63  # far above any size or time of a build, and exact as a float
_MISSING = object()
_WORDS: dict[type, str] = {
    str: "text",
    dict: "a table",
    list: "a list",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
}
_SCALARS = {str: "string", bool: "boolean", int: "integer", float: "number"}


def key(about: str = "", *, default: Any = None, **more: Any) -> Any:
    """Declare an optional key. `default` is the value if it is missing, or a type to construct.

    `more` are attributes of `_Column`, and `key` if the attribute has another name.
    """
    metadata = {"about": about, "expected": False, **more}
    if isinstance(default, type):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


class WrongValueError(ValueError):
    """A wrong value; `keys` lead to it, list items by their number."""

    def __init__(self, problem: str, *keys: str | int) -> None:
        super().__init__(problem)
        self.problem = problem
        self.keys = keys


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table of the file. `rest` holds keys that no other attribute holds: unknown ones, and known
    ones that were written with their default."""

    rest: Mapping[str, object] = field(default_factory=dict, repr=False)

    @classmethod
    def from_json(cls, table: Any) -> Self:
        """Read a table. Raise `WrongValueError` for the first wrong value."""
        _checked(table, dict)
        columns = _columns(cls)
        for key, column in columns.items():
            if column.default is _MISSING and key not in table:
                raise WrongValueError(f"is missing, expected {_WORDS[column.shape.kind]}", key)
        values: dict[str, Any] = {}
        rest: dict[str, object] = {}
        for key, item in table.items():
            known = columns.get(key)
            if known is None or (item is None and known.nullable):
                rest[key] = item
                continue
            value = _at(key, known.shape, item)
            if value == known.default:
                rest[key] = item
            else:
                values[known.name] = value
                if known.stays:
                    rest[key] = known.shape.kind()
        return cls(**values, rest=rest)

    def to_json(self) -> dict[str, Any]:
        """Return the table as plain values: as it was read, with the changes made since."""
        table: dict[str, Any] = {}
        for key, column in _columns(type(self)).items():
            value = getattr(self, column.name)
            if value != column.default:
                table[key] = _plain(value)
            elif key in self.rest:
                table[key] = self.rest[key]
        return table | {key: value for key, value in self.rest.items() if key not in table}

    def updated(self, later: Self) -> Self:
        """Return the table with every key that `later` writes."""
        return self.from_json(self.to_json() | later.to_json())


def explicit(kind: Callable[_P, _T], *args: _P.args, **values: _P.kwargs) -> _T:
    """Return a table that writes all `values`, even those equal to their default."""
    assert isinstance(kind, type)
    assert not args
    keys = {column.name: key for key, column in _columns(kind).items()}
    rest = {keys[name]: _plain(value) for name, value in values.items()}
    table: _T = kind(**values, rest=rest)
    return table


@dataclass(frozen=True, slots=True)
class _Shape:
    """A type of values: its JSON type, how it is read, and its schema."""

    kind: type
    read: Callable[[Any], Any]
    schema: Mapping[str, Any]
    changed_in_place: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class _Column:
    """A key of a table: its attribute, its shape, its default, and whether it is `nullable`.

    In the schema, `about` describes the key, `expected` makes it required, `schema` replaces that
    of its shape, and without `listed` it is left out.
    """

    name: str
    shape: _Shape
    default: object = _MISSING
    nullable: bool = False
    expected: bool = True
    listed: bool = True
    about: str = ""
    schema: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stays(self) -> bool:
        """Whether it is still written once it has been emptied."""
        return self.shape.changed_in_place and (self.shape.kind is list or self.expected)


def _read_columns(kind: type) -> dict[str, _Column]:
    """Return the columns of a table by key."""
    hints = get_type_hints(kind)
    columns = {}
    for item in dataclasses.fields(kind):
        if item.name == "rest":
            continue
        options = dict(item.metadata)
        key = options.pop("key", None) or item.name
        if item.default_factory is not dataclasses.MISSING:
            options["default"] = item.default_factory()
        elif item.default is not dataclasses.MISSING:
            options["default"] = item.default
        columns[key] = _Column(name=item.name, shape=_shape(hints[item.name]), **options)
    return columns


_columns: Callable[[type], dict[str, _Column]] = functools.cache(_read_columns)


@functools.cache
def _shape(hint: Any) -> _Shape:
    """Return the shape of an annotation."""
    origin, inner = get_origin(hint), [part for part in get_args(hint) if part is not type(None)]
    if origin in (Union, types.UnionType):
        return _shape(inner[0])
    changed = origin in (dict, list)
    if origin in (dict, Mapping):
        item = _shape(inner[1])
        each = {"type": "object", "additionalProperties": dict(item.schema)}
        return _Shape(dict, lambda table: _read_each(table, item), each, changed)
    if origin in (list, tuple):
        item, sequence = _shape(inner[0]), origin
        many = {"type": "array", "items": dict(item.schema)}
        return _Shape(list, lambda items: sequence(_read_many(items, item)), many, changed)
    if hint is Network:
        forms = [{"enum": [NONE, ALLOW]}, {"type": "array", "items": {"type": "string"}}]
        return _Shape(str, _read_network, {"anyOf": forms})
    if issubclass(hint, Table):
        return _Shape(dict, hint.from_json, table_schema(hint))
    if issubclass(hint, str) and hint is not str:  # text with a form of its own
        return _Shape(str, lambda value: hint(_checked(value, str)), {"type": "string"})
    return _Shape(hint, lambda value: _checked(value, hint), {"type": _SCALARS[hint]})


def table_schema(kind: type[Table]) -> dict[str, Any]:
    """Return the JSON schema of a table."""
    listed = {key: column for key, column in _columns(kind).items() if column.listed}
    properties = {}
    for key, column in listed.items():
        schema = dict(column.schema or column.shape.schema)
        if column.nullable and not column.schema:
            schema["type"] = [schema["type"], "null"]
        properties[key] = schema | ({"description": column.about} if column.about else {})
    required = [key for key, column in listed.items() if column.expected]
    return {
        "type": "object",
        "description": kind.__doc__,
        "properties": properties,
        **({"required": required} if required else {}),
    }


def _read_each(table: Any, item: _Shape) -> dict[str, Any]:
    _checked(table, dict)
    if item is _shape(str) and all(type(value) is str for value in table.values()):
        return dict(table)
    return {key: _at(key, item, value) for key, value in table.items()}


def _read_many(items: Any, item: _Shape) -> list[Any]:
    return [_at(number, item, value) for number, value in enumerate(_checked(items, list), 1)]


def _read_network(value: Any) -> Network:
    try:
        return Network.of(value)
    except InvalidNetworkError as error:
        raise WrongValueError(f"is {_shown(value)}, {EXPECTED}") from error


def _at(key: str | int, shape: _Shape, value: Any) -> Any:
    try:
        return shape.read(value)
    except WrongValueError as error:
        error.keys = (key, *error.keys)
        raise


def _checked(value: Any, kind: type) -> Any:
    if kind in (int, float):
        number = isinstance(value, int if kind is int else (int, float))
        # This form of the comparison also refuses NaN.
        right = number and not isinstance(value, bool) and -_LARGEST < value < _LARGEST
    else:
        right = isinstance(value, kind)
    if not right:
        raise WrongValueError(f"is {_shown(value)}, expected {_WORDS[kind]}")
    return value


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return f"{text[:80]}{'…' if len(text) > 80 else ''}"


def _plain(value: Any) -> Any:
    if isinstance(value, Table):
        return value.to_json()
    if isinstance(value, Network):
        return value.value
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
