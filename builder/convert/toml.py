"""A table of a TOML file that knows the lines of its keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from builder.convert.values import Line
from builder.spec.spec_file import positions


class Table(Mapping[str, Any]):
    """A table; what is missing or of another type is empty."""

    def __init__(
        self,
        values: Mapping[str, Any],
        file: str,
        text: str = "",
        path: tuple[str | int, ...] = (),
    ) -> None:
        self._values = values
        self._file = file
        self._text = text
        self._path = path

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def table(self, key: str) -> Table:
        """Return the table at `key`."""
        value = self._values.get(key)
        values = value if isinstance(value, dict) else {}
        return Table(values, self._file, self._text, (*self._path, key))

    def list(self, key: str) -> list[Any]:
        """Return the list at `key`."""
        value = self._values.get(key)
        return value if isinstance(value, list) else []

    def line(self, *key: str | int, text: str | None = None) -> Line:
        """Return the line of a key, with its own text unless another is given."""
        number = positions(self._text).of((*self._path, *key))[0] if self._text else 0
        own = self._text.splitlines()[number - 1].strip() if number else ""
        return Line(file=self._file, number=number, text=own if text is None else text)
