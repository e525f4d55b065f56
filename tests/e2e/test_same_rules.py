"""What code meets is the same on both targets: each of these inputs gives what stands beside it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from builder.runtime import CodeOutput
from builder.sandbox.execution import Result
from tests.support.clouds import Opened

pytestmark = pytest.mark.network
VALUES = {
    "A": 'it\'s "quoted"',
    "B": "back\\slash, $HOME, ${HOME}, `id`, $(id), %s, {}",
    "C": "two\nlines\r\n\ttabbed",
    "D": "",
    "É F": "é😀\u2028",
    "G": "'''\"\"\"" * 1000,
}
FILE_NAMES = "import os; print({name: os.environ.get(name) for name in %r})"


def given(
    code: str,
    output: str = "",
    *,
    error: str | None = None,
    results: tuple[Result, ...] = (),
    left_out: int = 0,
    timed_out: bool = False,
    lost: bool = False,
    **options: Any,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """An input, and what it is to give."""
    expected = {
        "output": output,
        "error": error,
        "results": list(results),
        "left_out": left_out,
        "timed_out": timed_out,
        "session_lost": lost,
        "success": error is None,
    }
    return {"code": code, **options}, expected


def text(value: str, *, main: bool = True, **data: Any) -> Result:
    return Result(data={"text/plain": value, **data}, is_main=main)


def late(seconds: str, *, kept: bool = True) -> str:
    end = "the session's state is kept"
    if not kept:
        end = "the interpreter did not stop and was replaced: the session's state is lost"
    return f"TimeoutError: the code did not finish within {seconds} and was interrupted; {end}"


def refusal_of(code: str) -> str:
    """The error of code that this Python, of which the sandboxes' is the same, does not compile:
    versions differ in what they call it."""
    with pytest.raises((SyntaxError, ValueError)) as refused:
        compile(code, "<string>", "exec")
    where = " (<string>)" if refused.type is SyntaxError else ""
    return f"{refused.type.__name__}: {refused.value}{where}"


GROUPS = {
    "values": [
        given("1 + 1", results=(text("2"),)),
        given("'abc'", results=(text("'abc'"),)),
        given('"it\'s"', results=(text('"it\'s"'),)),
        given("None"),
        given("1;"),
        given("print('x'); 5", "x\n", results=(text("5"),)),
        given("_", results=(text("5"),)),
        given(
            "from IPython.display import HTML, JSON, display\ndisplay(HTML('<b>'))\n"
            "display({'application/x-a': 'b', 'text/plain': 'c'}, raw=True)\ndisplay(JSON({'a': [1]}))",
            results=(
                text("<IPython.core.display.HTML object>", main=False, **{"text/html": "<b>"}),
                text("c", main=False, **{"application/x-a": "b"}),
                text("<IPython.core.display.JSON object>", main=False, **{"application/json": {"a": [1]}}),
            ),
        ),
    ],
    "odd code": [
        given(""),
        given("   \n"),
        given("# only a comment"),
        given("x = '\0'", error=refusal_of("x = '\0'")),
        given("print(1)\r\nprint(2)\r\n", "1\n2\n"),
        given("  x = 1\n  print(x)", "1\n"),
        given("é = '😀'; print(é, 'ß')", "😀 ß\n"),
        given("print('\\ud800')", "?\n"),
        given("raise ValueError('\\ud800')", error="ValueError: ?"),
        given("from __future__ import annotations\nprint(__name__)", "__main__\n"),
        given("%%bash\necho bash", "bash\n"),
        given("x = 1  # one of many\n" * 5000 + "print(x)", "1\n"),
        given("import asyncio; await asyncio.sleep(0); print('awaited')", "awaited\n"),
        given("print('a\\rb', end='')", "a\rb"),
        given("print(1)", "1\n", language="Python3"),
    ],
    "errors": [
        given("raise ValueError('x')", error="ValueError: x"),
        given("raise KeyError('x')", error="KeyError: 'x'"),
        given("raise ValueError('two\\nlines')", error="ValueError: two\nlines"),
        given("class E(Exception): pass\nraise E", error="E: "),
        given("print('a'); undefined", "a\n", error="NameError: name 'undefined' is not defined"),
        given("raise KeyboardInterrupt", error="KeyboardInterrupt: "),
        given("class ContextRestarting(Exception): pass\nraise ContextRestarting('Context was restarted')",
              error="ContextRestarting: Context was restarted"),
        given(
            "input()",
            error="StdinNotImplementedError: raw_input was called, but this frontend does not support"
            " input requests.",
        ),
        given("import sys; sys.stdin.read()", results=(text("''"),)),
    ],
    "ends": [
        given("x = 1; import sys; sys.exit(0)"),
        given("exit()"),
        given("print('a'); quit(); print('b')", "a\n"),
        given("import asyncio; await asyncio.sleep(0); sys.exit()"),
        given("sys.exit(2)", error="SystemExit: 2"),
        given("raise SystemExit('bye')", error="SystemExit: bye"),
        given("print(x, sys.argv)", "1 ['']\n"),
    ],
    "variables": [
        given(FILE_NAMES % list(VALUES), f"{VALUES}\n", env_vars=VALUES),
        given(FILE_NAMES % list(VALUES), f"{dict.fromkeys(VALUES)}\n"),
        given("os = 'mine'\nimport os as system; system.environ['A'] = 'before'"),
        given("print(os, system.environ['A'])", "mine given\n", env_vars={"A": "given"}),
        given("print(system.environ['A'])", "before\n"),
        given("system.environ['A'] = 'x'; del system.environ['B']", env_vars={"A": "1", "B": "2"}),
        given("print(system.environ['A'], system.environ.get('B'))", "before None\n"),
        given("1 / 0", error="ZeroDivisionError: division by zero", env_vars={"A": "1", "B": "2"}),
        given("print(system.environ['A'], system.environ.get('B'))", "before None\n"),
        given("while True: pass", error=late("0.5 seconds"), timed_out=True, timeout=0.5, env_vars={"A": "1"}),
        given("print(system.environ['A'])", "before\n"),
        given("import subprocess; print(subprocess.run('echo $A', shell=True, capture_output=True).stdout)",
              "b\"it's\\n\"\n", env_vars={"A": "it's"}),
    ],
    "time-outs": [
        given("x = 1"),
        given("while True: pass", error=late("1 second"), timed_out=True, timeout=1),
        given("import asyncio\nawait asyncio.sleep(60)", error=late("0.5 seconds"), timed_out=True, timeout=0.5),
        given(
            "import time\ntry:\n    time.sleep(60)\nfinally:\n    print('tidied')",
            "tidied\n", error=late("0.5 seconds"), timed_out=True, timeout=0.5,
        ),
        given(
            "try:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    time.sleep(60)",
            error=late("0.5 seconds"), timed_out=True, timeout=0.5,
        ),
        given("print(x)", "1\n"),
        given(
            "while True:\n    try:\n        time.sleep(60)\n    except KeyboardInterrupt:\n        pass",
            error=late("0.5 seconds", kept=False), timed_out=True, lost=True, timeout=0.5,
        ),
        given("print('x' in globals())", "False\n"),
    ],
    "limits": [
        given("print('x' * 5000)", f"{'x' * 500}\n… 4,001 characters left out …\n{'x' * 499}\n", left_out=4001),
        given("'x' * 4998", left_out=4000,
              results=(text(f"'{'x' * 499}\n… 4,000 characters left out …\n{'x' * 499}'"),)),
        given("from IPython.display import HTML\nHTML('x' * 50000)", left_out=50_000,
              results=(text("<IPython.core.display.HTML object>"),)),
        given("print('é' * 1000)", "é" * 500 + "\n… 1 characters left out …\n" + "é" * 499 + "\n", left_out=1),
    ],
}  # fmt: skip


def facts(result: CodeOutput, expected: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key in expected}


@pytest.mark.parametrize("group", GROUPS)
def test_same_rules(open_one: Opened, group: str) -> None:
    """Each input gives the same on both targets: output, error, results, what was left out, and
    what became of the session."""

    async def run() -> list[CodeOutput]:
        async with open_one(max_output=1000 if group == "limits" else 1_000_000) as executor:
            return [await executor.execute(asked) for asked, _ in GROUPS[group]]

    for (asked, expected), result in zip(GROUPS[group], asyncio.run(run()), strict=True):
        assert (asked["code"][:80], facts(result, expected)) == (asked["code"][:80], expected)


@pytest.mark.parametrize("language", ["ruby", "", "python 3"])
def test_language_that_is_not_there(open_one: Opened, language: str) -> None:
    """A language that a target does not run is refused by its name, and the session goes on."""

    async def run() -> CodeOutput:
        async with open_one() as executor:
            with pytest.raises(ValueError, match=f"'{language}'"):
                await executor.execute({"code": "1", "language": language})
            return await executor.execute({"code": "print(1)"})

    assert asyncio.run(run())["output"] == "1\n"
