from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.system.documents import MAX_DEPTH, NestingError, parse_json, parse_toml

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text("[]{}\"\\\\a\\n'#"),
    lambda inner: st.lists(inner) | st.dictionaries(st.text('[]{}"\\\\'), inner),
    max_leaves=200,
)


def nested(value: Any, times: int) -> Any:
    for number in range(times):
        value = [value, 1] if number % 2 else {"a": value}
    return value


@pytest.mark.slow
@given(value=VALUES)
def test_json_is_what_it_was(value: Any) -> None:
    """What is not nested too deeply is parsed as the standard library does, brackets in text too."""
    text = json.dumps([value] * 101)
    assert parse_json(text) == [value] * 101
    assert parse_json(text.encode("utf-16")) == [value] * 101


@pytest.mark.slow
@given(value=VALUES)
def test_json_beyond_the_limit_is_refused(value: Any) -> None:
    """Whatever else is in it, JSON with `MAX_DEPTH` levels is parsed, and with one more refused."""
    inner = 1
    assert parse_json(json.dumps([nested(inner, MAX_DEPTH - 1), str(value)]))
    with pytest.raises(NestingError, match=r"^it is nested deeper than 100 levels$"):
        parse_json(json.dumps([value, nested(inner, MAX_DEPTH)]))


@pytest.mark.parametrize(
    "text",
    [
        "x = " + "[" * 99 + "]" * 99,
        "x = " + "{a=" * 99 + "1" + "}" * 99,
        ".".join("a" * 100) + " = 1",
        f"[{'.'.join('a' * 98)}]\nx = {{}}",
        f"x = \"{'[' * 200}\"\ny = '{'[' * 200}' # {'[' * 200}\n" + "z = [1]\n[t]\n",
        'x = """\n' + "[" * 200 + '\\"\n"""\ny = \'\'\'\n"' + "{" * 200 + "'''",
    ],
)
def test_toml_within_the_limit(text: str) -> None:
    """TOML with `MAX_DEPTH` levels, the document's own included, is parsed; text is not nested."""
    assert parse_toml(text) == tomllib.loads(text)


@pytest.mark.parametrize(
    ("text", "offset"),
    [
        ("x = " + "[" * 100_000, 103),
        ("x = " + "{a=" * 100 + "1" + "}" * 100, 301),
        (".".join("a" * 101) + " = 1", None),
        (f"[{'.'.join('a' * 100)}]", None),
    ],
)
def test_toml_beyond_the_limit_is_refused(text: str, offset: int | None) -> None:
    """TOML with a level more is refused, by brackets, keys or headers, and where is known of
    brackets."""
    with pytest.raises(NestingError, match=r"^it is nested deeper than 100 levels$") as caught:
        parse_toml(text)
    assert caught.value.offset == offset
