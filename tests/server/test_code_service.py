"""Running code over E2B's code service, whose ways its stand-in has: what ends, and what is lost."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from builder.runtime import CodeExecutionPrimitive, CodeOutput
from tests.support.e2b_server import Server
from tests.support.e2b_server.faults import Fault
from tests.support.options import rounds

SWALLOWED_ONCE = """
import time
try:
    time.sleep(60)
except KeyboardInterrupt:
    print('caught', flush=True)
    time.sleep(60)
"""
STUBBORN = """
import time
while True:
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        pass
"""
LATE = """
import time
try:
    time.sleep(60)
finally:
    print('late')
"""
ENDLESS = {
    "sync": "import time\ntime.sleep(60)",
    "busy": "while True: pass",
    "async": "import asyncio\nawait asyncio.sleep(60)",
    "swallowed once": SWALLOWED_ONCE,
    "late output": LATE,
}


def executed(*codes: str, **options: Any) -> list[CodeOutput]:
    async def run() -> list[CodeOutput]:
        async with CodeExecutionPrimitive(template_id="one") as executor:
            return [await executor.execute({"code": code, **options}) for code in codes]

    return asyncio.run(run())


@pytest.mark.slow
@pytest.mark.parametrize("reached", [True, False], ids=["Jupyter", "closing"])
def test_time_out_keeps_the_session(ready: Server, *, reached: bool) -> None:
    """Code that is interrupted leaves the interpreter free, whether Jupyter can be asked to
    interrupt it or the service does so because the connection was closed; nothing that it prints
    then ends up elsewhere."""
    ready.jupyter_is_reached = reached
    codes = [code for endless in ENDLESS.values() for code in (endless, "print(x)")]
    first, *others = executed("x = 1", *codes, timeout=1)
    for name, late, after in zip(ENDLESS, others[::2], others[1::2], strict=True):
        assert (late["timed_out"], late["session_lost"]) == (True, False), name
        assert late["execution_time"] < 8, name
        assert (after["output"], after["error"]) == ("1\n", None), name
        assert after["sandbox_id"] == late["sandbox_id"] == first["sandbox_id"], name
        if reached:
            printed = {"swallowed once": "caught\n", "late output": "late\n"}
            assert late["output"] == printed.get(name, ""), name


@pytest.mark.slow
@pytest.mark.parametrize("reached", [True, False], ids=["Jupyter", "closing"])
def test_code_that_does_not_obey(ready: Server, *, reached: bool) -> None:
    """An interpreter that goes on after interrupts is restarted, in the same sandbox."""
    ready.jupyter_is_reached = reached
    late, after = executed(f"x = 1\n{STUBBORN}", "print('x' in globals())", timeout=1)
    assert late["error"] == (
        "TimeoutError: the code did not finish within 1 second and was interrupted; the interpreter did not"
        " stop and was replaced: the session's state is lost"
    )
    assert (late["timed_out"], late["session_lost"]) == (True, True)
    assert after["output"] == "False\n"
    assert after["sandbox_id"] == late["sandbox_id"]


@pytest.mark.slow
@pytest.mark.chance
def test_many_time_outs(ready: Server) -> None:
    """Of many time-outs in one session, of code that awaits and of code that does not, none loses
    what the session has defined."""
    codes = ["while True: pass", "import time; time.sleep(60)", "await asyncio.sleep(60)"]

    async def run() -> tuple[list[CodeOutput], CodeOutput]:
        async with CodeExecutionPrimitive(template_id="one") as executor:
            await executor.execute({"code": "import asyncio\nx = 1"})
            late = [
                await executor.execute({"code": codes[number % 3], "timeout": 0.05})
                for number in range(rounds(13))
            ]
            return late, await executor.execute({"code": "print(x)"})

    late, after = asyncio.run(run())
    assert {(each["timed_out"], each["session_lost"]) for each in late} == {(True, False)}
    assert {each["sandbox_id"] for each in late} == {after["sandbox_id"]}
    assert after["output"] == "1\n"


@pytest.mark.parametrize(
    "code",
    [
        "import os; os._exit(0)",
        "import os; os.kill(os.getpid(), 9)",
        "import os, time; print('x'); time.sleep(0.5); os._exit(3)",
    ],
)
def test_interpreter_that_dies(ready: Server, code: str) -> None:
    """What the service says of an interpreter that has died is no error of the code: the session
    is lost, and the next code has another sandbox."""
    died, after = executed(f"a = 1\n{code}", "print('a' in globals())", timeout=20)
    assert died["error"] == "InterpreterDied: the interpreter died while it ran the code"
    assert (died["success"], died["session_lost"], died["timed_out"]) == (False, True, False)
    assert after["output"] == "False\n"
    assert after["sandbox_id"] != died["sandbox_id"]


@pytest.mark.parametrize("name", ["ContextRestarting", "WebSocketError"])
def test_error_that_is_called_as_the_service_calls_a_death(ready: Server, name: str) -> None:
    """An exception of the code that has the name of one of the service's is an error of the code."""
    failed, after = executed(
        f"class {name}(Exception): pass\nraise {name}('Context was restarted')", "print(1)"
    )
    assert failed["error"] == f"{name}: Context was restarted"
    assert f"raise {name}" in failed["traceback"]
    assert not failed["session_lost"]
    assert after["sandbox_id"] == failed["sandbox_id"]


def test_interpreter_that_died_in_between(ready: Server) -> None:
    """An interpreter that has died when nothing ran is told by the next execution, which does not
    hang."""
    start = time.monotonic()
    _, result, after = executed(
        "import os, threading; threading.Timer(0.3, os._exit, [0]).start()",
        "import time; time.sleep(5)",
        "print(1)",
        timeout=30,
    )
    assert result["session_lost"]
    assert after["output"] == "1\n"
    assert time.monotonic() - start < 60


@pytest.mark.parametrize(
    ("name", "value"), [("A", "it's"), ("A", 'a "b"'), ("A", "\\"), ("A", "1\n2"), ("A-B", "1")]
)
def test_variable_for_another_language(ready: Server, name: str, value: str) -> None:
    """A variable that the service would take for code of another language is refused, and nothing
    runs."""
    with pytest.raises(
        ValueError, match="cannot be a variable for 'javascript': E2B's code service"
    ):
        executed("1", language="javascript", env_vars={name: value})
    assert "POST /execute" not in ready.front.requests


def test_context_that_is_gone(ready: Server, tmp_path: Path) -> None:
    """Code that the service has no interpreter for was not run, and is run in another sandbox."""

    async def run() -> tuple[CodeOutput, CodeOutput]:
        async with CodeExecutionPrimitive(template_id="one") as executor:
            first = await executor.execute({"code": "x = 1"})
            for sandbox in ready.running.values():
                (contexts,) = [vars(sandbox.service)["_contexts"]]
                contexts[f"another {tmp_path.name}"] = contexts.pop(next(iter(contexts)))
            return first, await executor.execute({"code": "print('x' in globals())"})

    first, second = asyncio.run(run())
    assert second["output"] == "False\n"
    assert first["sandbox_id"] != second["sandbox_id"]


def test_history_begins_with_the_code(ready: Server) -> None:
    """The history of an interpreter begins with the first code, and nothing is printed when it is
    written."""
    save = "get_ipython().history_manager.writeout_cache()"
    number = "[each[1:] for each in get_ipython().history_manager.get_range()]"
    first, second = executed(save, f"{save}\nprint({number})")
    assert (first["output"], first["error"]) == ("", None)
    assert second["output"].startswith(f"[(1, {save!r}), (2, ")


@pytest.mark.slow
def test_interpreter_that_died_between_executions(ready: Server) -> None:
    """After an interpreter that died while nothing ran, whose place another has taken, code runs in
    a new sandbox, with its variables."""
    look = "import os\nprint('a' in globals(), os.environ.get('NAME'))"

    async def run() -> tuple[CodeOutput, CodeOutput]:
        async with CodeExecutionPrimitive(template_id="one") as executor:
            before = await executor.execute({"code": "a = 1"})
            (sandbox,) = ready.running.values()
            service = sandbox.use()
            service.restart(service.contexts()[0]["id"])
            return before, await executor.execute({"code": look, "env_vars": {"NAME": "it's"}})

    before, after = asyncio.run(run())
    assert (after["output"], after["error"]) == ("False it's\n", None)
    assert after["sandbox_id"] != before["sandbox_id"]


def test_code_is_not_run_again_when_a_probe_finds_nothing(ready: Server) -> None:
    """Code that ran out of time is not run again in a new sandbox, when its own is gone by the time
    that the interpreter is probed."""
    ready.jupyter_is_reached = False
    # The first is what sets the interpreter up, the second is the code.
    ready.front.faults.append(Fault("POST /execute", "status", code=404, skip=2))
    (late,) = executed("import time\ntime.sleep(60)", timeout=1)
    assert (late["timed_out"], late["session_lost"]) == (True, True)
    assert ready.front.requests.count("POST /execute") == 3
