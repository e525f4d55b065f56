"""What running code on E2B does when something on the way goes wrong."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from builder.errors import NetworkError, SandboxError, TargetUnavailableError
from builder.runtime import CodeOutput
from tests.support.e2b_server import Fault, Server
from tests.support.e2b_server.sandbox_calls import SandboxCalls
from tests.support.e2b_server.state import Team
from tests.support.execution import executed, one


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        ("POST /v2/sandboxes", Fault("", "status", code=429)),
        ("POST /v2/sandboxes", Fault("", "status", code=503)),
        ("POST /v2/sandboxes", Fault("", "reset before")),
        ("POST /v2/sandboxes", Fault("", "reset after")),
        ("POST /v2/sandboxes", Fault("", "truncated")),
        ("GET /health", Fault("", "status", code=502, times=5)),
        ("GET /health", Fault("", "reset before", times=3)),
        ("POST /execute", Fault("", "status", code=502, times=5)),
        ("POST /execute", Fault("", "status", code=503)),
        ("DELETE /sandboxes/.*", Fault("", "status", code=500)),
        ("DELETE /sandboxes/.*", Fault("", "reset after")),
    ],
)
def test_fault_that_passes(ready: Server, tmp_path: Path, call: str, fault: Fault) -> None:
    """A fault that passes, before code ran, costs time alone: it runs once, in one sandbox."""
    fault.request = call
    ready.front.faults.append(fault)
    marks = tmp_path / "marks"
    (found,) = executed(one(), f"open({str(marks)!r}, 'a').write('x'); print(1)")
    assert found["output"] == "1\n"
    assert marks.read_text() == "x"
    assert fault.happened == fault.times
    assert ready.running == {}


@pytest.mark.parametrize("kind", ["reset after", "truncated"])
def test_connection_lost_in_mid_stream(ready: Server, tmp_path: Path, kind: Any) -> None:
    """When the answer of running code is lost, the code is not run again; the next code gets
    another sandbox."""
    marks = tmp_path / "marks"
    # The first request sets the interpreter up.
    ready.front.faults.append(Fault("POST /execute", kind, skip=1))

    async def run() -> CodeOutput:
        async with one() as executor:
            with pytest.raises(SandboxError):
                await executor.execute({"code": f"open({str(marks)!r}, 'a').write('x')"})
            return await executor.execute({"code": "print('x' in globals())"})

    assert asyncio.run(run())["output"] == "False\n"
    assert marks.read_text() == "x"
    assert ready.created == 2
    assert ready.running == {}


def test_service_that_takes_its_time(ready: Server) -> None:
    """The code service is polled until it is up, and no code is sent before."""
    ready.ready_after = 1.5
    start = time.monotonic()
    (found,) = executed(one(), "print(1)")
    assert found["output"] == "1\n"
    assert time.monotonic() - start > 1.5
    assert ready.front.requests.count("POST /execute") == 2  # the interpreter is set up, then used
    assert ready.front.requests.count("GET /health") > 5


def test_sandbox_that_ends_while_it_comes_up(ready: Server) -> None:
    """A sandbox that is gone before its service is up is told as that, soon."""
    ready.ready_after = 3600

    async def run() -> None:
        opening = asyncio.ensure_future(one().execute({"code": "1"}))
        while not ready.running:
            await asyncio.sleep(0.02)
        for sandbox in list(ready.running.values()):
            ready.end(sandbox)
        await opening

    with pytest.raises(SandboxError, match="it ended before its code service started"):
        asyncio.run(run())


def test_sandbox_that_its_timeout_ended(ready: Server) -> None:
    """A session whose sandbox E2B has ended meanwhile gets another one; the code runs there."""

    async def run() -> tuple[CodeOutput, CodeOutput]:
        async with one() as executor:
            first = await executor.execute({"code": "x = 1"})
            for sandbox in ready.running.values():
                sandbox.ends = 0.0
            return first, await executor.execute({"code": "print('x' in globals())"})

    first, second = asyncio.run(run())
    assert second["output"] == "False\n"
    assert first["sandbox_id"] != second["sandbox_id"]


def test_sandbox_that_ends_while_code_runs(ready: Server) -> None:
    """Code whose sandbox goes away under it is told so in its output, and is not run again."""

    async def run() -> CodeOutput:
        async with one() as executor:
            running = asyncio.ensure_future(
                executor.execute({"code": "import time; time.sleep(60)", "timeout": 60})
            )
            await asyncio.sleep(0.5)
            for sandbox in list(ready.running.values()):
                ready.end(sandbox)
            return await running

    start = time.monotonic()
    found = asyncio.run(run())
    assert (found["success"], found["session_lost"]) == (False, True)
    assert (found["error"] or "").startswith("InterpreterDied: ")
    assert time.monotonic() - start < 50
    assert ready.front.requests.count("POST /execute") == 2  # the interpreter is set up, then used


def test_refused_key(ready: Server) -> None:
    """A key that E2B refuses is told without the key."""
    with pytest.raises(TargetUnavailableError) as caught:
        executed(one(api_key="e2b_" + "9" * 40), "1")
    assert caught.value.message.startswith("E2B refused the key of target `e2b`: 401")
    assert "e2b_9" not in str(caught.value)


@pytest.mark.slow
def test_account_that_is_full(ready: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full account is waited for; when room comes, the sandbox is opened."""
    team: Team = next(iter(ready.state.teams.values()))
    team.sandboxes_at_a_time = 1

    async def run() -> str:
        async with one():
            second = one()
            waiting = asyncio.ensure_future(second.execute({"code": "print(2)"}))
            await asyncio.sleep(1)
            assert not waiting.done()
        found = await waiting
        await second.cleanup()
        return found["output"]

    assert asyncio.run(run()) == "2\n"


def test_creation_that_is_never_answered(ready: Server) -> None:
    """A sandbox that was created, though the answers were lost, is ended, and the error is told."""
    fault = Fault("POST /v2/sandboxes", "reset after", times=1000)
    ready.front.faults.append(fault)
    with pytest.raises(NetworkError, match="creating a sandbox of"):
        executed(one(), "1")
    assert ready.running == {}
    assert ready.created == 1  # the retries made no more


@pytest.mark.parametrize(
    "lines",
    [
        b"not json\n",
        b"[]\n",
        b'{"type": 3}\n{"kind": 1}\n',
        b'{"type": "stdout"}\n',
        b'{"type": "error", "name": 1, "value": 2, "traceback": 3}\n',
        b'{"type": "stdout", "text": "half',
        b"",
        b'{"type": "result", "text": 3, "is_main_result": []}\n',
        b"{" * 100_000 + b"\n",
        b'{"type": "stdout", "text": "' + b"x" * 6_000_000,
    ],
)
def test_answer_that_cannot_be_read(
    ready: Server, monkeypatch: pytest.MonkeyPatch, lines: bytes
) -> None:
    """Whatever comes instead of an execution's answer is an error in words, and takes no memory."""
    from starlette.responses import StreamingResponse

    def answer(*_: object) -> StreamingResponse:
        return StreamingResponse(iter([lines]))

    async def run() -> None:
        async with one() as executor:
            monkeypatch.setattr(SandboxCalls, "_answer_of_execution", answer)
            await executor.execute({"code": "1"})

    with pytest.raises(SandboxError):
        asyncio.run(run())
    assert ready.running == {}


def test_line_that_is_too_long(ready: Server) -> None:
    """Of a result that is far too large the beginning and the end are kept, and the rest is counted;
    what comes before it is there."""
    code = "print('before', flush=True)\n'x' * 3_000_000"
    (found,) = executed(one(max_output=1000), code)
    assert found["output"] == "before\n"
    (result,) = found["results"]
    assert result.text == (f"'{'x' * 499}\n… 2,999,002 characters left out …\n{'x' * 499}'")
    assert found["left_out"] == 2_999_002


def test_killed_application_leaves_what_its_timeout_ends(ready: Server) -> None:
    """The sandbox of an application that is killed has a time-out of its own."""

    async def run() -> list[float]:
        async with one(session_max_age=100):
            return [sandbox.ends - time.monotonic() for sandbox in ready.running.values()]

    (left,) = asyncio.run(run())
    assert 380 < left <= 400
