"""What the answers of E2B's code service hold, and what becomes of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from builder.sandbox.execution import Execution, Output
from builder.targets.e2b import stream

LONG = "x" * 5000
TABLE = {"data": {"name": [LONG, LONG], "size": [1, 2]}, LONG: 1}
CHART = {"type": "bar", "title": LONG, "elements": [{"label": LONG, "value": 1.5}]}


def read(*events: dict[str, Any], limit: int | None = None) -> Execution:
    async def parts() -> AsyncIterator[bytes]:
        for event in (*events, {"type": "end_of_execution"}):
            yield json.dumps(event).encode() + b"\n"

    output = Output(limit)
    asyncio.run(stream.read(parts(), output, magic="%%template_1"))
    return output.execution(0.0)


@pytest.mark.parametrize("padding", ["", "y" * (1 << 20)], ids=["short", "long"])
def test_tables_charts_and_further_types_are_passed_on(padding: str) -> None:
    """A result has E2B's tables and charts under their MIME types and all further types under
    theirs, as the service gives them, also in a line that is too long to be held whole."""
    event = {
        "type": "result",
        "text": "a",
        "data": TABLE,
        "chart": CHART,
        "json": {"nested": {"deeper": [LONG]}},
        "extra": {"application/x-y": {"list": [LONG]}, "text/x": LONG, "text/padding": padding},
        "is_main_result": True,
    }
    (result,) = read(event).results
    assert result.is_main
    assert result.data == {
        "text/plain": "a",
        "e2b/data": TABLE,
        "e2b/chart": CHART,
        "application/json": {"nested": {"deeper": [LONG]}},
        "application/x-y": {"list": [LONG]},
        "text/x": LONG,
        "text/padding": padding,
    }


def test_keys_without_a_value_are_absent() -> None:
    """The service leaves out what has no value: such an event is no answer that cannot be read."""
    found = read(
        {"type": "stdout"},
        {"type": "stderr", "text": None},
        {"type": "result"},
        {"type": "a later kind"},
        {},
        {"type": "error"},
    )
    assert (found.stdout, found.stderr, found.error) == ("", "", "Error: ")
    assert [result.data for result in found.results] == [{}]


def test_error_without_a_traceback() -> None:
    """An error of code of another language has no traceback, and is one all the same."""
    found = read({"type": "error", "name": "ReferenceError", "value": "x is not defined"})
    assert (found.error, found.traceback) == ("ReferenceError: x is not defined", "")
