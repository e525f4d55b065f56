"""What code in a kernel of `local` sees of its Python, and how it ends."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from builder.sandbox.execution import Execution
from builder.targets.local import kernel_host
from builder.targets.local.kernel import KernelSandbox
from tests.support.sandboxes import printed

pytestmark = pytest.mark.network
HOST = str(Path(kernel_host.__path__[0]).parents[2])


@pytest.mark.slow
def test_arguments_are_those_of_nobody(kept_sandbox: KernelSandbox) -> None:
    """`sys.argv` holds nothing, so that `argparse` finds its defaults."""
    code = (
        "import argparse; p = argparse.ArgumentParser(); p.add_argument('--n', type=int, default=3)"
        "; print(p.parse_args().n); import sys; print(sys.argv)"
    )
    assert printed(kept_sandbox, code) == "3\n['']\n"


def test_what_describes_a_kernel_draws_nothing(kept_sandbox: KernelSandbox) -> None:
    """What the kernel tells of itself, as often as it is asked, draws from no generator."""
    code = "import random; random.seed(1); get_ipython().banner; print(random.random())"
    assert printed(kept_sandbox, code) == "0.13436424411240122\n"


def test_nothing_of_the_host_is_in_sight(kept_sandbox: KernelSandbox) -> None:
    """No path of this program is in what tells how an interpreter was started, and nothing of it
    can be imported, in a process that code starts neither."""
    code = (
        "import __main__, subprocess, sys\n"
        "attributes = [getattr(__main__, n, None) for n in ('__file__', '__spec__', '__loader__')]\n"
        "print(sys.argv, sys.path, getattr(sys, 'orig_argv', []), attributes)\n"
        "run = lambda *a: subprocess.run([sys.executable, *a], capture_output=True, text=True)\n"
        "print(run('-c', 'import sys; print(sys.path)').stdout)\n"
        "print(run('-m', 'site').stdout)\n"
        "print(run('-m', 'builder').stderr)\n"
    )
    printout = printed(kept_sandbox, code)
    assert HOST not in printout
    assert "No module named builder" in printout
    missing = kept_sandbox.run("import builder", timeout=60)
    assert missing.error == "ModuleNotFoundError: No module named 'builder'"


def test_own_module_of_a_common_name_is_found(sandbox: KernelSandbox) -> None:
    """A file of the code's own is imported whatever it is called here, or in the standard
    library."""
    names = ["environment", "kernel", "zygote", "keeper", "python", "interrupts", "guard", "xdrlib"]
    code = (
        f"import importlib, sys\nfor name in {names}:\n"
        "    open(f'{name}.py', 'w').write('X = 42\\n')\n"
        "    print(importlib.import_module(name).X)\n"
        "print(repr(sys.path[0]))"
    )
    assert printed(sandbox, code) == "42\n" * len(names) + "''\n"


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_workers_find_modules_of_the_working_folder(
    kept_sandbox: KernelSandbox, method: str
) -> None:
    """A module that code has written is found in the processes of `multiprocessing`."""
    kept_sandbox.run(
        "open('wmod.py', 'w').write('def sq(x): return x*x\\n')\nimport wmod, multiprocessing as mp",
        timeout=60,
    )
    code = (
        "import warnings; warnings.simplefilter('ignore')  # of a fork beside threads\n"
        f"with mp.get_context({method!r}).Pool(1) as p:\n"
        "    print(p.map_async(wmod.sq, [1, 2, 3]).get(20))\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        f"with ProcessPoolExecutor(1, mp_context=mp.get_context({method!r})) as p:\n"
        "    print(list(p.map(wmod.sq, [1, 2, 3])))\n"
    )
    assert printed(kept_sandbox, code) == "[1, 4, 9]\n" * 2


@pytest.mark.parametrize(
    "end",
    [
        "sys.exit(0)",
        "sys.exit()",
        "sys.exit(None)",
        "raise SystemExit",
        "raise SystemExit()",
        "exit()",
        "quit(0)",
        "get_ipython().ask_exit()",
        "ender.end()",
        "import asyncio; await asyncio.sleep(0); sys.exit(0)",
    ],
)
def test_code_that_ends_itself_well_is_no_error(kept_sandbox: KernelSandbox, end: str) -> None:
    """However code ends itself with success, that is no error, ends it there, and keeps the
    session."""
    kept_sandbox.run(
        "x = 1; open('ender.py', 'w').write('def end(): exit()'); import ender", timeout=60
    )
    assert printed(kept_sandbox, f"import sys; print('ok'); {end}\nprint('not this')") == "ok\n"
    assert printed(kept_sandbox, "print(x)") == "1\n"


@pytest.mark.parametrize(
    ("end", "error"),
    [
        ("sys.exit(2)", "SystemExit: 2"),
        ("exit(2)", "SystemExit: 2"),
        ("sys.exit(True)", "SystemExit: True"),
        ("sys.exit('no data')", "SystemExit: no data"),
        ("sys.exit('')", "SystemExit: "),
        ("await asyncio.gather(failing())", "SystemExit: 3"),
    ],
)
def test_code_that_ends_itself_badly_is_an_error(
    kept_sandbox: KernelSandbox, end: str, error: str
) -> None:
    """An exit status other than 0, and a message, are errors; they keep the session, too, even from
    a task of its own, and nothing is written to standard error."""
    kept_sandbox.run("x = 1; import asyncio, sys\nasync def failing(): sys.exit(3)", timeout=60)
    execution = kept_sandbox.run(end, timeout=60)
    assert (execution.error, execution.stderr) == (error, "")
    assert end in execution.traceback
    assert printed(kept_sandbox, "print(x)") == "1\n"


def test_forked_child_ends_with_its_code(kept_sandbox: KernelSandbox) -> None:
    """A process that code forks ends where the code ends, with its status, and is no second
    kernel."""
    code = (
        "import os, sys, warnings; warnings.simplefilter('ignore')\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    {}\n"
        "if pid: print(os.waitpid(pid, 0)[1] >> 8)"
    )
    assert printed(kept_sandbox, code.format("pass")) == "0\n"
    assert printed(kept_sandbox, code.format("sys.exit(5)")) == "5\n"
    failed = kept_sandbox.run(code.format("1 / 0"), timeout=60)
    assert (failed.stdout, failed.error) == ("1\n", None)
    assert failed.stderr.endswith("ZeroDivisionError: division by zero\n")
    assert printed(kept_sandbox, "print('one')") == "one\n"


def told(execution: Execution) -> tuple[str | None, bool]:
    return execution.error, execution.lost


def test_debugger_and_input_do_not_wait(sandbox: KernelSandbox) -> None:
    """What would ask a person ends at once: there is nobody."""
    assert told(sandbox.run("breakpoint()", timeout=60)) == (None, False)
    asked = sandbox.run("input('name? ')", timeout=60)
    assert asked.error is not None
    assert asked.error.startswith("StdinNotImplementedError: ")
    assert printed(sandbox, "import sys; print(repr(sys.stdin.read()))") == "''\n"


def test_lines_of_a_command_end_as_lines(kept_sandbox: KernelSandbox) -> None:
    """What `!command` prints has the line ends of text, not those of a terminal."""
    assert printed(kept_sandbox, "!printf 'a\\nb\\n'") == "a\nb\n"
    assert printed(kept_sandbox, "!seq 3000").split("\n") == [*map(str, range(1, 3001)), ""]


def test_modules_of_the_kernel_are_of_an_old_python() -> None:
    """What runs in a sandbox is valid in Python 3.9, and evaluates no annotation."""
    for path in sorted(Path(kernel_host.__path__[0]).glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))
        imported = [node.module for node in tree.body if isinstance(node, ast.ImportFrom)]
        annotated = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        assert "__future__" in imported or not any("|" in ast.unparse(n.args) for n in annotated)
