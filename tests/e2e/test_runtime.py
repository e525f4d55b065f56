"""What running code promises, on either target."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from builder.errors import (
    NotBuiltError,
    RevokedError,
    TargetUnavailableError,
    UnknownTemplateError,
)
from builder.runtime import CodeExecutionPrimitive, CodeOutput, E2BPrimitive
from tests.conftest import ROOT
from tests.support.clouds import Opened, Place
from tests.support.e2b_server import Server
from tests.support.execution import executed
from tests.support.runs import revoke

pytestmark = pytest.mark.network


def test_output_is_what_tta_dev_promises(open_one: Opened, target: str) -> None:
    """Output, error, time, success, logs and the sandbox's ID come back under their names."""
    good, bad = executed(
        open_one(), "import sys; print('out'); print('err', file=sys.stderr)", "print('a'); 1 / 0"
    )
    assert (good["output"], good["error"], good["success"]) == ("out\n", None, True)
    assert good["logs"] == ["[stdout] out", "[stderr] err"]
    assert 0 < good["execution_time"] < 30
    assert good["sandbox_id"]
    assert good["sandbox_id"] == bad["sandbox_id"]
    assert (bad["output"], bad["success"]) == ("a\n", False)
    assert bad["error"] == "ZeroDivisionError: division by zero"
    assert "1 / 0" in bad["traceback"]
    assert E2BPrimitive is CodeExecutionPrimitive


def test_state_lasts_and_results_are_rich(open_one: Opened) -> None:
    """What one execution defines the next one finds; the value of the last line is a result."""
    outputs = executed(
        open_one(), "x = 20", "x + 22", "from IPython.display import HTML; HTML('<b>b')"
    )
    assert [(one.text, one.is_main) for one in outputs[1]["results"]] == [("42", True)]
    assert outputs[2]["results"][0].html == "<b>b"
    assert outputs[2]["results"][0].png is None


def test_time_out_keeps_the_session_and_says_so(open_one: Opened) -> None:
    """Code that takes too long is interrupted; what it and others have defined is still there."""
    late, after = executed(
        open_one(), "x = 1\nprint('begun', flush=True)\nimport time\ntime.sleep(60)", "print(x)",
        timeout=1.5,
    )  # fmt: skip
    assert late["timed_out"]
    assert not late["success"]
    assert late["output"] == "begun\n"
    assert late["error"] == (
        "TimeoutError: the code did not finish within 1.5 seconds and was interrupted; the session's state"
        " is kept"
    )
    assert late["execution_time"] < 12
    assert after["output"] == "1\n"
    assert after["sandbox_id"] == late["sandbox_id"]


def test_variables_are_for_one_execution(open_one: Opened) -> None:
    """Environment variables reach the code they were given with, and no other."""
    code = "import os; print(os.environ.get('COLOUR'), os.environ.get('HOME') != '')"

    async def both() -> list[str]:
        async with open_one() as executor:
            one = await executor.execute({"code": code, "env_vars": {"COLOUR": "it's\n'b' $HOME"}})
            return [one["output"], (await executor.execute({"code": code}))["output"]]

    assert asyncio.run(both()) == ["it's\n'b' $HOME True\n", "None True\n"]


@pytest.mark.slow
def test_output_is_bounded_and_says_so(open_one: Opened) -> None:
    """Of more output than asked for the beginning and the end are kept, and the rest is counted."""
    (found,) = executed(open_one(max_output=1000), "for i in range(100_000): print(i)", timeout=60)
    assert found["success"]
    assert found["output"].startswith("0\n1\n")
    assert found["output"].endswith("99998\n99999\n")
    assert found["left_out"] == 588_890 - 1000
    assert f"\n… {found['left_out']:,} characters left out …\n" in found["output"]
    (found,) = executed(open_one(max_output=1000), "'x' * 5000")
    (result,) = found["results"]
    assert "4,002 characters left out" in (result.text or "")
    assert found["left_out"] == 4002
    assert found["notes"] == [
        "4,002 characters of output exceed `max_output` and are left out: write large output to a file, and"
        " read it with `files.read` or `files.download`"
    ]


def test_logs_have_the_lines_of_a_terminal(open_one: Opened) -> None:
    """Of a progress bar the last state is among the lines, without colours; output is untouched."""
    bar = "\r  0%|    |\r 50%|\x1b[32m##  \x1b[0m|\r100%|####|\n"
    code = f"import sys; print({bar!r}, end='', file=sys.stderr); print({bar!r}, end='')"
    (found,) = executed(open_one(), code)
    assert found["logs"] == ["[stdout] 100%|####|", "[stderr] 100%|####|"]
    assert found["output"] == bar
    assert found["notes"] == []


@pytest.mark.parametrize(
    ("given", "kind", "told"),
    [
        ({}, ValueError, "input_data has no `code`: the code to execute"),
        ({"code": 3}, TypeError, "input_data['code'] is int, expected str"),
        ({"code": "1", "time_out": 3}, ValueError, "input_data has an unknown key 'time_out' (did you mean `timeout`?)"),
        ({"code": "1", "timeout": 0}, ValueError, "input_data['timeout'] is 0, expected seconds above 0, at most 604800"),
        ({"code": "1", "timeout": True}, TypeError, "input_data['timeout'] is bool, expected int or float"),
        ({"code": "1", "env_vars": {"A": 1}}, TypeError, "input_data['env_vars'] must map names to text"),
        ({"code": "1", "env_vars": {"A=B": "1"}}, ValueError, "input_data['env_vars'] cannot hold 'A=B'"),
    ],
)  # fmt: skip
def test_input_that_cannot_be_run(given: dict[str, Any], kind: type[Exception], told: str) -> None:
    """Wrong input is named, and opens no sandbox."""
    primitive = CodeExecutionPrimitive(template_id="some-id", api_key="e2b_x")
    with pytest.raises(kind) as caught:
        asyncio.run(primitive.execute(given))
    assert str(caught.value) == told


def test_sessions_side_by_side(open_one: Opened) -> None:
    """`session` gives each caller a sandbox of its own, from the same template."""

    async def run() -> list[CodeOutput]:
        executor = open_one()

        async def caller(number: int) -> CodeOutput:
            async with executor.session() as own:
                await own.execute({"code": f"x = {number}"})
                await asyncio.sleep(0.1)
                return await own.execute({"code": "print(x)"})

        return await asyncio.gather(*(caller(number) for number in range(4)))

    found = asyncio.run(run())
    assert [one["output"] for one in found] == ["0\n", "1\n", "2\n", "3\n"]
    assert len({one["sandbox_id"] for one in found}) == 4


def test_interpreter_that_dies_is_told_once(open_one: Opened) -> None:
    """Code that kills its interpreter is told in its output, is not run again, and the next one
    runs in another sandbox."""

    async def run() -> tuple[CodeOutput, CodeOutput]:
        async with open_one() as executor:
            died = await executor.execute(
                {
                    "code": "import os, time\nprint('before', flush=True)\ntime.sleep(.5)\nos._exit(1)"
                }
            )
            return died, await executor.execute({"code": "print(1)"})

    died, after = asyncio.run(run())
    assert (died["success"], died["session_lost"]) == (False, True)
    assert (died["error"] or "").startswith("InterpreterDied: ")
    assert died["output"] == "before\n"
    assert (after["output"], after["session_lost"]) == ("1\n", False)
    assert after["sandbox_id"] != died["sandbox_id"]


def test_nothing_runs_after_the_end_of_a_block(open_one: Opened) -> None:
    """After its `async with` block a primitive opens no sandbox, until the block is entered again."""
    ended = "this CodeExecutionPrimitive has ended with its `async with` block: run code inside the block, or enter it again"

    async def run() -> None:
        executor = open_one()
        async with executor:
            pass
        for call in (executor.execute({"code": "1"}), executor.files.list()):
            with pytest.raises(RuntimeError) as caught:
                await call
            assert str(caught.value) == ended
        async with executor:
            assert (await executor.execute({"code": "print(1)"}))["output"] == "1\n"

    asyncio.run(run())


def test_revoked_build_is_not_opened_again(open_one: Opened, place: Place, target: str) -> None:
    """A build that is revoked while a program runs is not opened any more, nor another instead."""

    async def run() -> None:
        executor = open_one()
        await executor.execute({"code": "1"})
        await executor.cleanup()
        registry = json.loads((place.folder / "registry.json").read_text())
        entry = registry["templates"]["one"][target]
        entry["builds"][entry["channels"]["stable"]]["revoked"] = "CVE"
        (place.folder / "registry.json").write_text(json.dumps(registry))
        with pytest.raises(RevokedError):
            await executor.execute({"code": "1"})

    asyncio.run(run())
    with pytest.raises(RevokedError):
        open_one()


def test_local_is_asked_for_by_name(local_one: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key nothing runs on this machine instead, and the error says how to ask for it."""
    for name in ("E2B_API_KEY", "E2B_KEY", "TEMPLATE_TARGET"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(TargetUnavailableError) as caught:
        CodeExecutionPrimitive(template_id="one")
    assert str(caught.value) == (
        "target `e2b` needs an account: no `api_key` is given, and E2B_API_KEY and E2B_KEY are not"
        ' set\n\nhint: set E2B_API_KEY to a key of the account; target="local" needs none: it runs'
        " code on this machine"
    )
    assert isinstance(caught.value, ValueError)
    monkeypatch.setenv("E2B_KEY", "e2b_x")
    with pytest.raises(NotBuiltError) as missing:
        CodeExecutionPrimitive(template_id="one")
    assert 'it is built for this machine: target="local"' in str(missing.value)
    with pytest.raises(UnknownTemplateError, match="did you mean `one`"):
        CodeExecutionPrimitive(template_id="onee", target="local")
    with pytest.raises(UnknownTemplateError, match="`template_id` is missing"):
        CodeExecutionPrimitive()


@pytest.mark.slow
def test_what_is_e2bs_own_passes_through(
    place: Place, cloud: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ID, a name with a tag and a ref of E2B's own are used as they are; a name that E2B does
    not have is an error with near matches, and nothing else is opened."""
    place.build("one", "two")
    monkeypatch.chdir(ROOT)
    record = place.recorded("one")
    for own in (
        record["template_id"],
        "one:stable",
        f"{record['template_id']}:{record['build_id']}",
    ):
        (found,) = executed(CodeExecutionPrimitive(template_id=own), "print(1)")
        assert found["output"] == "1\n"
    with pytest.raises(UnknownTemplateError) as caught:
        executed(CodeExecutionPrimitive(template_id="tta-data-minimall"), "1")
    assert str(caught.value).startswith("target `e2b` has no template `tta-data-minimall`: 404")
    assert "\n\nhint: did you mean `tta-data-minimal`" in str(caught.value)
    assert cloud.running == {}


def test_ref_of_a_revoked_build_is_refused(ready: Server, place: Place) -> None:
    """Naming a revoked build by its ref does not get around the registry."""
    record = place.recorded("one")
    revoke(place, "one")
    with pytest.raises(RevokedError, match="of `one` is revoked: a package with malware"):
        CodeExecutionPrimitive(template_id=f"{record['template_id']}:{record['build_id']}")


def test_import_is_light() -> None:
    """Importing the runtime loads neither the SDK, nor the build side, nor a web framework."""
    code = (
        "import sys, builder.runtime as r; r.CodeExecutionPrimitive\n"
        "heavy = {'e2b', 'pydantic', 'starlette', 'httpx', 'jupyter_client', 'builder.spec',"
        " 'builder.render', 'builder.plan', 'builder.workflow', 'docker', 'typer', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert found.stdout == "[]\n"


class WorkflowPrimitive:
    """As TTA.dev's: `>>` and `|` make primitives of primitives."""

    def __rshift__(self, other: Any) -> Any:
        return ("sequence", self, other)

    def __or__(self, other: Any) -> Any:
        return ("parallel", self, other)


def test_composes_with_a_workflow_library() -> None:
    """`>>` and `|` are those of the other side's library; without one they are a TypeError."""
    primitive = CodeExecutionPrimitive(template_id="an-id", api_key="e2b_x")
    theirs = WorkflowPrimitive()
    assert primitive >> theirs == ("sequence", primitive, theirs)
    assert primitive | theirs == ("parallel", primitive, theirs)
    assert theirs >> primitive == ("sequence", theirs, primitive)
    with pytest.raises(TypeError):
        primitive >> 3


def test_spans_tell_what_was_done(open_one: Opened, target: str) -> None:
    """With OpenTelemetry set up there is a span for resolve, open, ready and execute, which name
    the template, the ref, the target, and whether the sandbox came from the pool."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        provider = TracerProvider()
        trace.set_tracer_provider(provider)
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    primitive = open_one()
    executed(primitive, "print(1)", env_vars={"CANARY": "do-not-tell"})
    spans = {
        span.name: dict(span.attributes or {})
        for span in exporter.get_finished_spans()
        if span.name.startswith("template.")  # E2B's SDK has spans of its own
    }
    assert set(spans) == {f"template.{n}" for n in ("resolve", "open", "ready", "execute")}
    told = spans["template.execute"]
    assert told["template.name"] == "one"
    assert told["template.ref"] == primitive.ref
    assert told["template.target"] == target
    assert told["sandbox.source"] == "cold"
    assert told["code.success"] is True
    assert "do-not-tell" not in str(spans)
    assert "e2b_" not in str(spans)
