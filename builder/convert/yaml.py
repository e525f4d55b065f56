"""Values of a YAML file that know their lines: texts, lists and tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from builder.convert.values import Line
from builder.system.documents import MAX_DEPTH, NestingError


class Value:
    """A value; what is missing or of another type is empty."""

    def __init__(self, node: Any, file: str, source: str) -> None:
        self._node = node
        self._file = file
        self._source = source

    def items(self) -> Iterator[tuple[str, Value]]:
        """Yield the keys and values of a table."""
        if isinstance(self._node, yaml.MappingNode):
            for key, value in self._node.value:
                if isinstance(key, yaml.ScalarNode):
                    yield key.value, Value(value, self._file, self._source)

    def list(self) -> list[Value]:
        """Return the items of a list."""
        if not isinstance(self._node, yaml.SequenceNode):
            return []
        return [Value(item, self._file, self._source) for item in self._node.value]

    def text(self) -> str:
        """Return the text of a scalar as it is written."""
        return str(self._node.value) if isinstance(self._node, yaml.ScalarNode) else ""

    @property
    def kind(self) -> str:
        """What the value is: "text" (also a number), "a list", "a table" or "null"."""
        if isinstance(self._node, yaml.SequenceNode):
            return "a list"
        if isinstance(self._node, yaml.MappingNode):
            return "a table"
        is_null = self._node is None or self._node.tag == "tag:yaml.org,2002:null"
        return "null" if is_null else "text"

    def line(self, text: str | None = None) -> Line:
        """Return the line of the value, with its own text unless another is given."""
        number = self._node.start_mark.line + 1 if self._node else 0
        return Line(file=self._file, number=number, text=self.text() if text is None else text)


def parse_yaml(text: str, file: str) -> Value:
    """Return the first document of a YAML file. Raises `ValueError`, also if it is nested deeper
    than `MAX_DEPTH` levels."""
    try:
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise NestingError(MAX_DEPTH)
        return Value(yaml.compose(text, Loader=yaml.SafeLoader), file, text)
    except yaml.MarkedYAMLError as error:
        place = f" (line {error.problem_mark.line + 1})" if error.problem_mark else ""
        raise ValueError(f"{error.problem}{place}") from error
    except yaml.YAMLError as error:
        raise ValueError(str(error).splitlines()[0]) from error
