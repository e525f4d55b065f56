"""The settings in `[tool.template-builder]` of a pyproject.toml, with the line of each mistake.

Uses only the standard library, for look-ups. `builder.project` checks the tables below it.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from itertools import takewhile

from builder.errors import ProjectError, did_you_mean
from builder.system.documents import NestingError, parse_toml
from builder.system.regular_file import read_regular

if False:  # for type checkers; importing typing costs as much as all the rest
    from typing import Any

KEYS = ("accept-fallback", "isolation", "precheck", "registry", "targets", "zygote")
_TOOL = ("tool", "template-builder")
_LARGEST_BYTES = 1 << 20
_BYTE_ORDER_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
_HEADER = re.compile(r"\s*\[+([^\[\]]+)\]+")
_KEY = re.compile(r"""\s*((?:[A-Za-z0-9_.\s-]|"[^"]*"|'[^']*')+?)\s*=""")
_PART = re.compile(r""""([^"]*)"|'([^']*)'|([A-Za-z0-9_-]+)""")
_PLACE = re.compile(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", re.DOTALL)


class Settings:
    """The table `[tool.template-builder]` of the file at `path`, empty if there is none."""

    __slots__ = ("path", "table", "text")

    def __init__(self, path: str, text: str = "", table: dict[str, Any] | None = None) -> None:
        self.path = path
        self.text = text
        self.table = table or {}

    @property
    def registry(self) -> str | None:
        """The registry: a path, or the URL of an object. Raises `ProjectError`."""
        named = self.table.get("registry")
        if named is not None and (not isinstance(named, str) or not named or "\0" in named):
            raise self.wrong_value("", "registry", named, "a string")
        return named

    def check_keys(self, entry: Any, table: str, known: tuple[str, ...] = ()) -> None:
        """Raise `ProjectError` unless `entry` is a table in which every key is `known`."""
        if not isinstance(entry, dict):
            raise self.error(table, "expected a table")
        for key in entry if known else ():
            if key not in known:
                hint = did_you_mean(key, known)
                raise self.error(table, f"unknown key `{key}`", key=key, hint=hint)

    def wrong_value(self, table: str, key: str, value: object, expected: str) -> ProjectError:
        """Return the error for a value at `key` that is not as `expected`."""
        return self.error(table, f"`{key}` is {value!r}, expected {expected}", key=key)

    def error(
        self, table: str, message: str, *, key: str | None = None, hint: str | None = None
    ) -> ProjectError:
        """Return the error for a mistake at `key` of a table below `[tool.template-builder]`."""
        keys = (*_TOOL, *(table.split(".") if table else ()))
        line = _line_of(self.text, (*keys, key) if key is not None else keys)
        return ProjectError(f"{self.path}:{line}: [{'.'.join(keys)}]: {message}", hint=hint)


def read_settings(path: str) -> Settings:
    """Read a pyproject.toml. Raises `ProjectError` with the line of a mistake."""
    try:
        content = read_regular(path, _LARGEST_BYTES)
    except FileNotFoundError:
        return Settings(path)
    except OSError as error:
        raise ProjectError(f"{path} cannot be read: {error.strerror}") from error
    return _parsed(path, content)


@lru_cache(maxsize=8)  # an application looks up one template after another
def _parsed(path: str, content: bytes) -> Settings:
    if content.startswith(_BYTE_ORDER_MARKS):
        raise ProjectError(
            f"{path}:1: begins with a byte order mark, which TOML does not allow",
            hint="save it as UTF-8 without one (`UTF-8`, not `UTF-8 with BOM`, in your editor)",
        )
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ProjectError(f"{path}:{line}: is not UTF-8: {error.reason}") from error
    try:
        document = parse_toml(text)
    except ValueError as error:
        line, message = _placed(text, error)
        raise ProjectError(f"{path}:{line}: is not valid TOML: {message}") from error
    tool = document.get("tool", {})
    if not isinstance(tool, dict):
        raise ProjectError(f"{path}:{_line_of(text, _TOOL[:1])}: [tool]: expected a table")
    settings = Settings(path, text, tool.get("template-builder", {}))
    settings.check_keys(settings.table, "", KEYS)
    return settings


def may_have_settings(path: str) -> bool:
    """Return False if a pyproject.toml certainly has no settings of this program, without parsing
    it."""
    try:
        content = read_regular(path, _LARGEST_BYTES)
    except OSError:
        return os.path.lexists(path)
    return b"template-builder" in content.replace(b"\0", b"")  # in UTF-16, too


def _placed(text: str, error: ValueError) -> tuple[int, str]:
    """Return the line of a mistake in TOML, and the mistake."""
    last = text.rstrip().count("\n") + 1
    if isinstance(error, NestingError):
        return text.count("\n", 0, error.offset) + 1 if error.offset else last, str(error)
    if place := _PLACE.fullmatch(str(error)):
        return int(place[2] or last), place[1]
    return _longest_number(text), "a number with thousands of digits"


def _longest_number(text: str) -> int:
    numbers = re.compile(r"[0-9_]+").finditer(text)
    longest = max(numbers, key=lambda number: len(number[0]), default=None)
    return text.count("\n", 0, longest.start()) + 1 if longest else 1


def _line_of(text: str, keys: tuple[str, ...]) -> int:
    """Return the line that sets the value at `keys`, or that of the nearest table around it."""
    best, depth = 1, 0
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = path = _parts(header[1])
        elif key := _KEY.match(line):
            path = (*table, *_parts(key[1]))
        else:
            continue
        pairs = zip(path, keys, strict=False)
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        if same > depth:
            best, depth = number, same
    return best


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(next(filter(None, part), "") for part in _PART.findall(dotted))
