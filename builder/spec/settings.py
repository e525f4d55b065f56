"""List what a chain of specs sets, with the file and line of each value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import tomli_w
from pydantic import BaseModel

from builder.spec.load import place_of
from builder.spec.models import TABLES, VariantFile
from builder.spec.service import READY_KEYS
from builder.spec.spec_file import dotted
from builder.spec.variant import Variant
from builder.system.documents import parse_toml

# Each spec has its own values of these.
_OWN = ("schema", "name", "description", "extends")
# A list of one of these keys or tables replaces that of a parent; other lists add to it.
_REPLACED = ("network", "base", "service", "resources", "warmup", "workdir")
DEFAULT = "default"


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """A value of a template; `place` is its file and line, such as `variants/ml.toml:3`, or
    `default`. `key` ends with a number for each item of a list that several specs add to."""

    key: tuple[str | int, ...]
    value: Any
    place: str


def settings_of(variant: Variant) -> tuple[Setting, ...]:
    """Return the values of a loaded variant, in the order of the reference."""
    settings = {setting.key: setting for setting in _defaults(variant)}
    counts: dict[tuple[str | int, ...], int] = {}
    for stage in variant.stages:
        assert stage.path, "the variant was not loaded from files"
        document = parse_toml(stage.path.read_text(encoding="utf-8-sig"))
        leaf = stage is variant.stages[-1]
        for key, value in _values((), document):
            if key[0] in _OWN and not leaf:
                continue
            place = place_of(stage.path.parent, stage.source, key)
            *table, last = key
            if isinstance(last, int):
                last = counts[tuple(table)] = counts.get(tuple(table), -1) + 1
            merged = (*table, last)
            if key[0] == "env":  # it may refer to the ones that are set since its parent set it
                settings.pop(merged, None)
            settings[merged] = Setting(key=merged, value=value, place=place)
    for name in READY_KEYS:
        if not getattr(variant, name):  # a spec replaces how its parent's service is ready
            settings.pop(("service", name.replace("_", "-")), None)
    fields = [info.alias or name for name, info in VariantFile.model_fields.items()]
    return tuple(sorted(settings.values(), key=lambda setting: fields.index(str(setting.key[0]))))


def _values(
    path: tuple[str | int, ...], table: Mapping[str, Any]
) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    for name, value in table.items():
        key = (*path, name)
        if isinstance(value, dict):
            yield from _values(key, value)
        elif isinstance(value, list) and key[0] not in _REPLACED:
            yield from (((*key, number), item) for number, item in enumerate(value))
        else:
            yield key, value


def _defaults(variant: Variant) -> Iterator[Setting]:
    for name, model in TABLES.items():
        if name == "base" and variant.from_template:
            continue
        for key, value in _of_variant(variant, name, model):
            if value not in (None, "", [], ()):
                yield Setting(key=(name, key), value=value, place=DEFAULT)


def _of_variant(variant: Variant, table: str, model: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    """Yield the values that a table has without being set: those of the variant, since the service
    depends on the base image."""
    for name, info in model.model_fields.items():
        default = info.get_default(call_default_factory=True)
        value = getattr(variant, name, default) if table in _REPLACED else default
        yield info.alias or name, list(value) if isinstance(value, tuple) else value


def as_toml(settings: tuple[Setting, ...]) -> str:
    """Return the values as one spec, each with its place in a comment."""
    groups: dict[tuple[str | int, ...], list[Setting]] = {}
    for setting in settings:
        is_item = isinstance(setting.key[-1], int)
        groups.setdefault(setting.key[:-1] if is_item else setting.key, []).append(setting)
    lines: list[str] = []
    table: tuple[str | int, ...] = ()
    for key, group in groups.items():
        if isinstance(group[0].value, dict):
            for setting in group:
                lines += _item(key, setting)
            table = key
            continue
        if key[:-1] != table:
            table = key[:-1]
            lines += ["", f"[{dotted(table)}]"]
        lines += _assignment(str(key[-1]), group)
    return "\n".join(lines) + "\n"


def _item(key: tuple[str | int, ...], setting: Setting) -> Iterator[str]:
    """Yield the lines of a table in a list, with the tables inside it below it."""
    yield from ("", f"[[{dotted(key)}]]  # {setting.place}")
    inner = {name: value for name, value in setting.value.items() if isinstance(value, dict)}
    own = {name: value for name, value in setting.value.items() if name not in inner}
    yield tomli_w.dumps(own, multiline_strings=True).rstrip()
    for name, value in inner.items():
        yield f"[{dotted((*key, name))}]"
        yield tomli_w.dumps(value, multiline_strings=True).rstrip()


def _assignment(name: str, group: list[Setting]) -> Iterator[str]:
    if isinstance(group[0].key[-1], int):
        yield f"{dotted([name])} = ["
        for setting in group:
            _, _, value = tomli_w.dumps({"item": setting.value}).strip().partition(" = ")
            yield f"    {value},  # {setting.place}"
        yield "]"
        return
    text = tomli_w.dumps({name: group[0].value}, multiline_strings=True).rstrip()
    if "\n" in text:
        yield f"# {group[0].place}"
        yield text
    else:
        yield f"{text}  # {group[0].place}"
