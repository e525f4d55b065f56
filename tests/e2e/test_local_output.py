"""What a local sandbox writes and shows: all of it, in order, and never more than was asked for."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from builder.runtime import CodeExecutionPrimitive, CodeOutput
from tests.conftest import ROOT
from tests.support.clouds import Place
from tests.support.execution import ran
from tests.support.sandboxes import LINUX, with_module

pytestmark = pytest.mark.network

WRITTEN = {
    "import subprocess, sys; subprocess.run(['echo', 'x'], stdout=sys.stdout); print('y')": "x\ny\n",
    "import os\nprint('a', end='')\nos.system('echo b')\nos.write(1, b'c')\nprint('d')": "ab\ncd\n",
    "import ctypes\nc = ctypes.CDLL(None)\nprint('a')\nc.printf(b'b\\n')\nprint('c')": "a\nb\nc\n",
    "import sys\nsys.stdout.buffer.write('é'.encode())\nprint('!')": "é!\n",
    "open('/dev/stdout', 'w').write('by its name')": "by its name",
    "import subprocess; subprocess.run('echo x > /dev/stdout', shell=True); print(1)": "x\n1\n",
    "from threading import Thread\nt = Thread(target=print, args=['t']); t.start(); t.join()": "t\n",
    "import multiprocessing as m\np = m.get_context('fork').Process(target=print, args=['p'])\n"
    "p.start(); p.join()": "p\n",
    "import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()) as f: print('in')\n"
    "print('out', f.getvalue())": "out in\n\n",
    "%%capture found\nprint('captured')": "",
    "print(found.stdout, end='')": "captured\n",
    "import sys; print(sys.stdout.isatty(), sys.stdout.encoding, sys.stdin.read())": "False utf-8 \n",
    "sys.stdout.close(); print('open')": "open\n",
    "print('\\ud83d|', '\\U0001f600')": "?| \U0001f600\n",
    "import sys, io; sys.stdout = io.TextIOWrapper(sys.stdout.detach(), 'utf-8'); print('é')": "é\n",
    "with open('log', 'w') as sys.stdout: print('in a file')": "",
    "print(open('log').read(), end='')": "in a file\n",
}


@pytest.mark.slow
def test_all_that_is_written_to_standard_output_arrives_in_order(local_one: Path) -> None:
    """Whoever writes to descriptor 1, Python, C or a process, is heard, in the order of writing."""
    outputs = ran(*WRITTEN)
    assert [output["error"] for output in outputs] == [None] * len(WRITTEN)
    assert dict(zip(WRITTEN, [output["output"] for output in outputs], strict=True)) == WRITTEN


@pytest.mark.slow
def test_standard_error_is_heard_as_well(local_one: Path) -> None:
    """Warnings, processes and `faulthandler` reach standard error, and nothing else does."""
    codes = (
        "import faulthandler; faulthandler.dump_traceback()",
        "import os; os.system('echo e >&2')",
        "import logging; logging.warning('w')",
        "print(1)",
    )
    fault, process, logger, nothing = ran(*codes)
    assert "[stderr]   File " in "\n".join(fault["logs"])
    assert process["logs"] == ["[stderr] e"]
    assert logger["logs"] == ["[stderr] WARNING:root:w"]
    assert nothing["logs"] == ["[stdout] 1"]


@pytest.mark.slow
@pytest.mark.skipif(not LINUX, reason="only Linux forks sandboxes")
def test_a_logger_made_by_a_warm_import_is_heard(
    place: Place, local_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a warm module has kept of `sys.stderr` at its import leads to each sandbox's output."""
    text = "import logging, sys\nlogging.getLogger('warm').addHandler(logging.StreamHandler(sys.stderr))\n"
    with_module(place, "warm", text)
    monkeypatch.setenv("TEMPLATE_REGISTRY", str(place.folder / "registry.json"))
    (output,) = ran("import logging; logging.getLogger('warm').error('heard')")
    assert output["logs"] == ["[stderr] heard"]


def test_nothing_is_lost_with_the_interpreter(local_one: Path) -> None:
    """What was written before the interpreter was killed is in the output, up to the last byte."""
    code = (
        "import os, sys\nprint('x' * 50_000 + 'é')\nprint('last', end='')\n"
        "sys.stderr.write('e')\nos.kill(os.getpid(), 9)"
    )
    died, exited = ran(code, "print('é' * 50_000, end=''); import os; os._exit(3)")
    assert died["session_lost"]
    assert died["output"] == "x" * 50_000 + "é\nlast"
    assert died["logs"][-1] == "[stderr] e"
    assert exited["output"] == "é" * 50_000


def test_output_of_the_background_never_waits(local_one: Path) -> None:
    """What is written between two executions is in neither, and keeps nobody waiting; a process
    that outlives its execution holds none up."""
    code = (
        "import subprocess, threading\n"
        "p = subprocess.Popen('head -c 3000000 /dev/zero; touch ended; exec sleep 600', shell=True)\n"
        "print('begun')"
    )

    async def run() -> list[CodeOutput]:
        options: Any = {"template_id": "one", "target": "local", "max_output": 4_000_000}
        async with CodeExecutionPrimitive(**options) as executor:
            first = await executor.execute({"code": code})
            while True:
                seen = await executor.execute({"code": "import os; os.path.exists('ended')"})
                if seen["results"][0].text == "True":
                    return [first, await executor.execute({"code": "print('next')"})]
                await asyncio.sleep(0.1)

    first, last = asyncio.run(run())
    assert first["output"].replace("\0", "") == "begun\n"
    assert last["output"] == "next\n"


SHOWN = {
    "h = display('one', display_id=True); h.update('two')": ["'two'"],
    "h.update('three'); h.update('four')": ["'four'"],
    "display(1, display_id='i'); display(2); display(3, display_id='i');": ["3", "2", "3"],
    "from IPython.display import clear_output\nfor i in range(3):\n"
    "    clear_output(wait=True); print(i); display(i)": ["2"],
    "display(1); print(1); clear_output()": [],
    "display(1); clear_output(wait=True)": ["1"],
    "display(1); clear_output(wait=True); print('new')": [],
    "clear_output(); display(1); clear_output(); display(2); 3": ["2", "3"],
    "for i in range(3000): display(i)": [str(number) for number in range(3000)],
}


@pytest.mark.slow
def test_what_is_replaced_ends_as_its_last_state(local_one: Path) -> None:
    """A display with an ID is shown once, in its last state; cleared output is gone."""
    outputs = ran(*SHOWN)
    assert [output["error"] for output in outputs] == [None] * len(SHOWN)
    shown = [[result.text for result in output["results"]] for output in outputs]
    assert dict(zip(SHOWN, shown, strict=True)) == SHOWN
    written = [output["output"] for output in outputs]
    assert written == ["", "", "", "2\n", "", "", "new\n", "", ""]


WITHOUT_FLUSH = """
import sys
class Tee:
    def write(self, text):
        return sys.__stdout__.write(f"<{text}>")
sys.{name} = Tee()
"""


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_code_may_put_anything_in_the_place_of_a_stream(local_one: Path, name: str) -> None:
    """A stream of the code's that is None or has no `flush` is its own until the end of its
    execution, changes nothing of what else the code gives, and does not end the session."""
    replaced = [
        f"import sys; sys.{name} = None",
        f"sys.{name} = sys.__{name}__ = None",
        WITHOUT_FLUSH.replace("{name}", name),
    ]
    for statement in replaced:
        start, shown, value, failed, kept = ran(
            f"import sys\nx = 1\n{statement}",
            f"{statement}\ndisplay(x)",
            f"{statement}\nx + 1",
            f"{statement}\nx / 0",
            "print(x)",
        )
        assert start["error"] is None
        assert [result.text for result in shown["results"]] == ["1"]
        assert [result.text for result in value["results"]] == ["2"]
        assert failed["error"] == "ZeroDivisionError: division by zero"
        assert (kept["output"], kept["session_lost"]) == ("1\n", False)
    (written,) = ran(f"{WITHOUT_FLUSH.replace('{name}', name)}print(1, file=sys.{name})")
    assert written["output"] == "<1><\n>"


MEMORY = """
import asyncio, json, resource, sys
from builder.runtime import CodeExecutionPrimitive

CODES = [
    "print('x' * 100_000_000)",
    "for _ in range(100): print(('y' * 99 + '\\\\n') * 10_000, end='')",
    "import subprocess; subprocess.run('yes | head -c 100000000', shell=True)",
    "import sys; sys.stderr.write('é' * 50_000_000)",
    "'r' * 50_000_000",
    "display({'image/png': 'p' * 50_000_000}, raw=True)",
    "raise ValueError('e' * 50_000_000)",
    "while True: display('d' * 1_000_000)",
    "h = display(1, display_id=True)\\nwhile True: h.update('u' * 1_000_000)",
    "while True: print('endless' * 1000)",
    "while True: display(1)",
]

async def main():
    async with CodeExecutionPrimitive(
        template_id="one", target="local", max_output=1000
    ) as executor:
        await executor.execute({"code": "print(1)"})
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        told = []
        for code in CODES:
            seconds = 2 if "while" in code else 300
            found = await executor.execute({"code": code, "timeout": seconds})
            more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            kept = len(found["output"]) + len(found["error"] or "") + len(found["traceback"])
            ended = [found["timed_out"], found["session_lost"]]
            told.append([code, more >> 10, found["left_out"], kept, ended])
        print(json.dumps(told))

asyncio.run(main())
"""


@pytest.mark.slow
def test_what_is_received_is_bounded(local_one: Path) -> None:
    """Whatever code writes, shows or raises, the application takes at most 32 MiB more, and what
    was left out is counted to the character."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True, cwd=ROOT
    )
    measured = json.loads(done.stdout)
    assert {code: more for code, more, *_ in measured if more > 32} == {}
    assert [kept for *_, kept, _ in measured if kept > 3200] == []
    assert [ended for *_, ended in measured] == [[False, False]] * 7 + [[True, False]] * 4
    counts = [left_out for _, _, left_out, *_ in measured]
    assert counts[:6] == [
        100_000_001 - 1000, 100_000_000 - 1000, 100_000_000 - 1000, 50_000_000 - 1000,
        50_000_002 - 1000, 50_000_000,
    ]  # fmt: skip
    assert counts[6] >= 50_000_000 - 1000
