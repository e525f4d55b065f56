"""Code that breaks what runs it, arguments that make no sense, and races."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from builder.errors import SandboxError
from builder.runtime import CodeExecutionPrimitive, CodeOutput
from tests.support.e2b_server import Server
from tests.support.execution import executed, one

pytestmark = pytest.mark.network


@pytest.fixture
def here(local_one: Path) -> Any:
    """Primitives of the template `one` on this machine."""

    def make(**options: Any) -> CodeExecutionPrimitive:
        return CodeExecutionPrimitive(template_id="one", target="local", **options)

    return make


async def each(primitive: CodeExecutionPrimitive, *codes: str) -> list[CodeOutput | str]:
    found: list[CodeOutput | str] = []
    async with primitive as executor:
        for code in codes:
            try:
                found.append(await executor.execute({"code": code}))
            except SandboxError as error:
                found.append(error.message)
    return found


@pytest.mark.slow
def test_code_that_did_not_run_is_no_success(here: Any, tmp_path: Path) -> None:
    """A kernel that was put out of order and answers nothing is an error, and is replaced."""
    mark = tmp_path / "mark"
    breaking = "get_ipython().kernel.shell = None"
    _, *broken, last = asyncio.run(
        each(here(), breaking, f"open({str(mark)!r}, 'w')", "print(1)", "print(1)")
    )
    assert any(
        isinstance(one, str) and "did not report how the code ended" in one for one in broken
    )
    assert not isinstance(last, str)
    assert last["output"] == "1\n"
    for one_of in broken:
        assert isinstance(one_of, str) or one_of["output"] == "1\n" or mark.exists()


def test_half_characters_break_nothing(here: Any) -> None:
    """Text that no file could hold is shown with a mark in its place, as output and as an error."""
    good, bad = asyncio.run(
        each(here(), "print('good'); print('\\ud800')", "raise ValueError('\\ud800')")
    )
    assert not isinstance(good, str)
    assert not isinstance(bad, str)
    assert good["output"] == "good\n?\n"
    assert (bad["success"], bad["error"]) == (False, "ValueError: ?")


@pytest.mark.slow
def test_interpreter_that_ends_well_is_a_success(
    here: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After `os._exit(0)`, the output says that the session is lost, without an error; the next
    code runs once, in a new sandbox."""
    monkeypatch.setenv("TEMPLATE_ISOLATION", "none")  # it leaves a mark outside
    mark = tmp_path / "mark"
    ended, after = asyncio.run(
        each(
            here(),
            "x = 1; import os; os._exit(0)",
            f"open({str(mark)!r}, 'a').write('x'); print('x' in globals())",
        )
    )
    assert not isinstance(ended, str)
    assert not isinstance(after, str)
    assert (ended["success"], ended["error"], ended["session_lost"]) == (True, None, True)
    assert after["output"] == "False\n"
    assert mark.read_text() == "x"


def test_many_descriptors_are_no_obstacle(here: Any) -> None:
    """An application with more than 1,024 open files can open sandboxes and run code."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        (found,) = asyncio.run(each(here(), "print(1)"))
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not isinstance(found, str)
    assert found["output"] == "1\n"


def test_long_error_is_still_an_error(ready: Server) -> None:
    """An exception whose message is beyond every limit fails the code, and its name is told."""
    (found,) = executed(one(max_output=1000), "raise ValueError('z' * 3_000_000)")
    assert not found["success"]
    assert (found["error"] or "").startswith("ValueError: zzz")
    assert found["left_out"] > 1_000_000


def test_error_that_was_cut_says_so(here: Any) -> None:
    """Of a long message the beginning and the end are kept, and the rest is counted."""
    (found,) = asyncio.run(each(here(max_output=1000), "raise ValueError('z' * 50_000)"))
    assert not isinstance(found, str)
    assert "characters left out" in (found["error"] or "")
    assert found["left_out"] > 40_000


def test_large_results_are_told(here: Any) -> None:
    """A picture, a table or a value beyond the limit leaves a line that says what it was."""
    big, many = asyncio.run(
        each(
            here(max_output=1000),
            "from IPython.display import JSON, display; display(JSON({'a': 'x' * 100_000}))",
            "for _ in range(2000): display({}, raw=True)",
        )
    )
    assert not isinstance(big, str)
    assert not isinstance(many, str)
    (result,) = big["results"]
    assert "application/json of 100" in json.dumps(dict(result.data)) or result.text
    assert big["left_out"] > 100_000
    assert len(many["results"]) < 300


@pytest.mark.slow
def test_sandbox_outlives_what_runs_in_it(ready: Server) -> None:
    """Code that may take longer than its sandbox lives gets another one, pooled or not."""
    for options in ({"session_max_age": 10.0}, {"session_max_age": 10.0, "pool_size": 1}):

        async def run(options: Any = options) -> tuple[float, float]:
            async with one(**options) as executor:
                await executor.execute({"code": "1"})
                first = max(sandbox.ends for sandbox in ready.running.values())
                await executor.execute({"code": "1", "timeout": 2000})
                return first, max(sandbox.ends for sandbox in ready.running.values())

        first, second = asyncio.run(run())
        assert second - first > 1500, options


def test_one_primitive_in_two_threads_is_refused(here: Any) -> None:
    """Use in another event loop at the same time is an error in words; nobody waits for ever."""
    primitive, errors = here(), []

    def run() -> None:
        try:
            asyncio.run(primitive.execute({"code": "import time; time.sleep(.5)"}))
        except RuntimeError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert errors
    assert set(errors) == {
        "this CodeExecutionPrimitive is in use in another event loop: create one for each thread"
    }
    asyncio.run(primitive.cleanup())
