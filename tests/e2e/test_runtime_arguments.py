"""Arguments and inputs that make no sense."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from builder.errors import TargetUnavailableError
from builder.runtime import CodeExecutionPrimitive, CodeOutput
from tests.support.e2b_server import Fault, Server
from tests.support.execution import one

pytestmark = pytest.mark.network


@pytest.mark.parametrize(
    ("options", "kind", "told"),
    [
        ({"pool_size": 1.5}, TypeError, "pool_size is float, expected a whole number"),
        ({"pool_size": "2"}, TypeError, "pool_size is str, expected a whole number"),
        ({"max_output": None}, TypeError, "max_output is NoneType, expected a whole number"),
        ({"max_output": 0}, ValueError, "max_output is 0, expected 1 or more"),
        ({"default_timeout": float("inf")}, ValueError, "default_timeout is inf, expected more than 0, 604800 at most"),
        ({"default_timeout": "30"}, TypeError, "default_timeout is str, expected seconds"),
        ({"session_max_age": float("nan")}, ValueError, "session_max_age is nan, expected more than 0, 604800 at most"),
        ({"template_id": 3}, TypeError, "template_id is int, expected text"),
        ({"target": 3}, TypeError, "target is int, expected text"),
        ({"isolation": "none"}, ValueError, "isolation is 'none', but sandboxes of the target `e2b` are virtual machines: only the target `local` runs code without isolation"),
        ({"api_key": "e2b_é"}, TargetUnavailableError, "the key for target `e2b` contains characters that no key has"),
        ({"api_key": "e2b\nX"}, TargetUnavailableError, "the key for target `e2b` contains characters that no key has"),
    ],
)  # fmt: skip
def test_argument_that_makes_no_sense(options: Any, kind: type[Exception], told: str) -> None:
    """Wrong arguments are told when the primitive is made."""
    with pytest.raises(kind) as caught:
        CodeExecutionPrimitive(**{"template_id": "abc", "api_key": "e2b_x"} | options)
    assert str(caught.value).partition("\n")[0] == told


def test_a_virtual_machine_is_more_than_confined() -> None:
    """An application that asks for confined sandboxes gets those of every target."""
    CodeExecutionPrimitive(template_id="abc", api_key="e2b_x", isolation="confined")


@pytest.mark.parametrize(
    ("given", "kind", "told"),
    [
        ("print(1)", TypeError, "input_data is str, expected a mapping such as"),
        (None, TypeError, "input_data is NoneType, expected a mapping such as"),
        ({3: 4, "code": "1"}, ValueError, "input_data has an unknown key 3"),
        ({"code": "1", "timeout": float("inf")}, ValueError, "input_data['timeout'] is inf"),
        ({"code": "1", "timeout": 10**400}, ValueError, "input_data['timeout'] is 1000"),
        ({"code": "'\ud800'"}, ValueError, "input_data['code'] contains an unpaired surrogate"),
        ({"code": "1", "env_vars": {"A": "\udce9"}}, ValueError, "contains an unpaired surrogate"),
    ],
)
def test_input_that_makes_no_sense(given: Any, kind: type[Exception], told: str) -> None:
    """Wrong input is told before a sandbox is opened for it."""
    primitive = CodeExecutionPrimitive(template_id="abc", api_key="e2b_x")
    with pytest.raises(kind) as caught:
        asyncio.run(primitive.execute(given))
    assert told in str(caught.value)


def test_unknown_language_keeps_the_session(ready: Server) -> None:
    """A language that the service does not run is a `ValueError`; what was defined is kept."""

    async def run() -> CodeOutput:
        async with one() as executor:
            await executor.execute({"code": "x = 1"})
            ready.front.faults.append(Fault("POST /execute", "status", code=500))
            with pytest.raises(ValueError, match="does not run 'klingon'"):
                await executor.execute({"code": "1", "language": "klingon"})
            return await executor.execute({"code": "print(x)"})

    assert asyncio.run(run())["output"] == "1\n"
