"""What each value of a registry must be, for as far as this program reads it.

Whatever is not named here is kept and not looked at: a later version may have written it.
"""

from __future__ import annotations

import json

from builder.errors import RegistryError

if False:  # for type checkers; importing typing costs as much as all the rest
    from collections.abc import Iterator
    from typing import Any

__all__ = ["check_entry", "check_top"]

# A shape is a type, a list of one shape, or a table of shapes by key, `*` for any other key.
# `(shape, None)` may also be null; `(shape,)` must be there.
_EACH = "*"
_TEXTS = {_EACH: str}
_MARK = {"reason": (str,), "at": str, "by": str, "from": str}
_CHECK = {
    **dict.fromkeys(("name", "code", "source"), (str,)),
    "stdout": (str, None),
    "timeout": (int,),
}
_RECORD = {
    "template_id": str,
    "build_id": str,
    "digest": str,
    "origin": str,
    "base_image": str,
    "built_at": str,
    "checked_at": str,
    "note": str,
    "revoked": str,
    "revoked_at": str,
    "checksum": str,
    "size_bytes": int,
    "steps": [str],
    "base_fetched": bool,
    "warnings": [str],
    "packages": _TEXTS,
    "other_packages": _TEXTS,
    "stages": _TEXTS,
    "stages_algorithm": int,
    "env": _TEXTS,
    "inputs": {_EACH: _TEXTS},
    "resources": {"cpu": int, "memory_mb": int},
    "warmup": {"level": str, "imports": [str]},
    "provenance": {"commit": str, "dirty": bool, "renderer": str, "lock": str},
    "revocations": {_EACH: _MARK},
    "checks": [
        {
            "source": (str,),
            "name": (str,),
            "code": (str,),
            "stdout": (str, None),
            "timeout": (int,),
        }
    ],
    "verified": {
        "checks": [str],
        "seconds": {
            "build": (float, None),
            "sandbox": (float, None),
            "warm_sandbox": (float, None),
            "first_use": {_EACH: {_EACH: float}},
        },
    },
}
_EVENT = {
    **dict.fromkeys(("action", "at", "by", "build", "record", "reason", "chain"), str),
    **dict.fromkeys(("channel", "from", "to"), (str, None)),
}
_ENTRY = {
    "channels": _TEXTS,
    "builds": {_EACH: _RECORD},
    "history": [_EVENT],
    "holds": {_EACH: {"at": (str,), "by": (str,), "reason": str}},
}
_TOP = {"changes": [str], "revocations": [{**_MARK, "what": (str,), "at": (str,)}]}
_WORDS = {
    str: "text",
    dict: "a table",
    list: "a list",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
}
_LARGEST = 1 << 63  # what no size or time of a build comes near; a float takes it


def check_entry(entry: dict[str, Any], *, name: str, target: str, path: str) -> None:
    """Raise `RegistryError` for the first wrong value of a template on one target."""
    for keys, problem in _problems(entry, _ENTRY):
        raise _error(path, f"{_worded(keys)} of template `{name}` on `{target}` {problem}")


def check_top(data: dict[str, Any], *, path: str) -> None:
    """Raise `RegistryError` for the first wrong value beside the templates."""
    for keys, problem in _problems(data, _TOP):
        raise _error(path, f"`{_dotted(keys)}` {problem}")


def _error(path: str, message: str) -> RegistryError:
    return RegistryError(f"{path}: {message}", hint="restore the file from git")


def _problems(
    value: Any, shape: Any, keys: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """The keys that lead to each wrong value, and what is wrong with it."""
    if isinstance(shape, tuple):
        if value is None and len(shape) == 2:
            return
        shape = shape[0]
    kind = type(shape) if isinstance(shape, (dict, list)) else shape
    if not _is(value, kind):
        told = json.dumps(value)
        yield keys, f"is {told[:80]}{'…' if len(told) > 80 else ''}, expected {_WORDS[kind]}"
    elif kind is list:
        for number, item in enumerate(value, 1):
            yield from _problems(item, shape[0], (*keys, number))
    elif kind is dict:
        yield from _problems_inside(value, shape, keys)


def _problems_inside(
    table: dict[str, Any], shape: dict[str, Any], keys: tuple[str | int, ...]
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    for key, inner in shape.items():
        if isinstance(inner, tuple) and len(inner) == 1 and key not in table:
            yield (*keys, key), f"is not there, expected {_WORDS[inner[0]]}"
    each = shape.get(_EACH)
    for key, item in table.items():
        inner = shape.get(key, each)
        if inner is not None and not (inner is str and isinstance(item, str)):
            yield from _problems(item, inner, (*keys, key))


def _is(value: Any, kind: type) -> bool:
    if kind in (int, float):
        number = isinstance(value, int if kind is int else (int, float))
        # Written so that NaN, which is less than nothing, is refused, too.
        return number and not isinstance(value, bool) and -_LARGEST < value < _LARGEST
    return isinstance(value, kind)


def _worded(keys: tuple[str | int, ...]) -> str:
    if keys[:1] == ("channels",) and len(keys) == 2:
        return f"channel `{keys[1]}`"
    if keys[:1] == ("builds",) and len(keys) > 1:
        rest = _dotted(keys[2:])
        return f"`{rest}` of build `{keys[1]}`" if rest else f"build `{keys[1]}`"
    if keys[:1] == ("history",) and len(keys) > 1:
        rest = _dotted(keys[2:])
        event = f"event {keys[1]} of the history"
        return f"`{rest}` of {event}" if rest else event
    if keys[:1] == ("holds",) and len(keys) > 1:
        rest, hold = _dotted(keys[2:]), f"the hold on channel `{keys[1]}`"
        return f"`{rest}` of {hold}" if rest else hold
    return f"`{_dotted(keys)}`"


def _dotted(keys: tuple[str | int, ...]) -> str:
    told = ""
    for key in keys:
        told += f"[{key}]" if isinstance(key, int) else f".{key}" if told else key
    return told
