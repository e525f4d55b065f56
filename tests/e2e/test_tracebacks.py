"""Errors of code on `local`: as Python shows them, bounded, and in time."""

from __future__ import annotations

import pytest

from builder.targets.local.kernel import KernelSandbox
from tests.support.sandboxes import printed

pytestmark = pytest.mark.network
ODD = "class Odd(Exception):\n    def __str__(self): {}\n"


@pytest.mark.slow
def test_traceback_is_that_of_python(sandbox: KernelSandbox) -> None:
    """A traceback names cells by their number and files by their path, with causes and notes, and
    nothing of what runs the code."""
    (sandbox.home / "own.py").write_text("def halve(n):\n    return n / 0\n")
    code = (
        "import own\n"
        "def run():\n"
        "    try:\n"
        "        own.halve(1)\n"
        "    except ZeroDivisionError as error:\n"
        "        raise ValueError('no half') from error\n"
        "run()"
    )
    execution = sandbox.run(code, timeout=60)
    home = "/home/user" if sandbox.confined else sandbox.home
    assert execution.error == "ValueError: no half"
    assert execution.traceback == (
        "Traceback (most recent call last):\n"
        "  Cell In[1], line 4, in run\n"
        "    own.halve(1)\n"
        f'  File "{home}/own.py", line 2, in halve\n'
        "    return n / 0\n"
        "ZeroDivisionError: division by zero\n"
        "\n"
        "The above exception was the direct cause of the following exception:\n"
        "\n"
        "Traceback (most recent call last):\n"
        "  Cell In[1], line 7\n"
        "    run()\n"
        "  Cell In[1], line 6, in run\n"
        "    raise ValueError('no half') from error\n"
        "ValueError: no half"
    )
    assert (execution.stdout, execution.stderr) == ("", "")


GROUP = "ExceptionGroup('g', [ValueError('a'), ExceptionGroup('h', [KeyError('b'), OSError('c')])])"


GROUPS = [
    (f"raise {GROUP}", "ExceptionGroup: g (2 sub-exceptions)"),
    (f"async def main(): raise {GROUP}\nawait main()", "ExceptionGroup: g (2 sub-exceptions)"),
    (
        f"try: raise {GROUP}\nexcept Exception as e: raise RuntimeError('r') from e",
        "RuntimeError: r",
    ),
]


@pytest.mark.parametrize(("code", "error"), GROUPS)
def test_group_is_told_whole(new_sandbox: KernelSandbox, code: str, error: str) -> None:
    """An exception group, as the first error of a session, too, is an error with all its members in
    the traceback."""
    execution = new_sandbox.run(code, timeout=60)
    assert execution.error == error
    for line in ("ValueError: a", "ExceptionGroup: h (2 sub-exceptions)", "KeyError: 'b'"):
        assert line in execution.traceback
    assert (execution.lost, execution.stderr) == (False, "")
    many = new_sandbox.run("raise ExceptionGroup('g', [OSError(n) for n in range(99)])", timeout=60)
    assert "OSError: 98" in many.traceback
    assert printed(new_sandbox, "print('on')") == "on\n"


@pytest.mark.parametrize(
    "code",
    [
        "def f(n): return f(n + 1)\nf(0)",
        "def f(n): return g(n)\ndef g(n): return f(n + 1)\nf(0)",
        "sys.setrecursionlimit(20_000)\n"
        "def f(n, big=[0] * 1000): return f(n - 1) if n else 1 / 0\nf(3000)",
        "def f(n):\n    try: return f(n + 1)\n    finally: g(n)\ndef g(n): return n\nf(0)",
    ],
)
def test_deep_traceback_is_bounded_and_in_time(kept_sandbox: KernelSandbox, code: str) -> None:
    """An error that is thousands of calls deep is told as itself within a short limit, with its
    first and last frames."""
    kept_sandbox.run("import sys; usual = sys.getrecursionlimit()", timeout=60)
    execution = kept_sandbox.run(code, timeout=2)
    kept_sandbox.run("sys.setrecursionlimit(usual)", timeout=60)
    assert not execution.timed_out
    assert execution.error is not None
    assert execution.error.startswith(("RecursionError: ", "ZeroDivisionError: "))
    assert "frames left out …\n" in execution.traceback
    assert execution.traceback.count("\n") < 100
    assert "\n    f(0)\n" in execution.traceback or "\n    f(3000)\n" in execution.traceback


@pytest.mark.slow
def test_sizes_are_bounded(kept_sandbox: KernelSandbox) -> None:
    """Of a message, a source line and a chain of causes that are too long, the traceback has as
    much as somebody could read."""
    message = kept_sandbox.run("raise ValueError('x' * 5_000_000)", timeout=60)
    assert message.error is not None
    assert len(message.error) < 1_001_000
    assert "characters left out" in message.error
    line = kept_sandbox.run(f"x = '{'y' * 1_000_000}'; 1 / 0", timeout=60)
    assert line.error == "ZeroDivisionError: division by zero"
    assert len(line.traceback) < 1000
    chain = (
        "error = ValueError('x' * 100)\n"
        "for n in range(20_000):\n"
        "    error, error.__context__ = ValueError('x' * 100), error\n"
        "raise error"
    )
    execution = kept_sandbox.run(chain, timeout=60)
    assert execution.error == f"ValueError: {'x' * 100}"
    assert len(execution.traceback) < 1_001_000


ERRORS = [
    (ODD.format("raise OSError") + "raise Odd", "Odd: <its message cannot be made: OSError>"),
    (ODD.format("return 1") + "raise Odd", "Odd: <its message cannot be made: TypeError>"),
    (ODD.format("import sys; sys.exit(0)") + "raise Odd", "Odd: <its message cannot be made: "),
    (ODD.format("raise OSError") + "raise OSError('o') from Odd()", "OSError: o"),
    ("raise KeyboardInterrupt", "KeyboardInterrupt: "),
    ("raise GeneratorExit", "GeneratorExit: "),
    ("raise StopIteration('s')", "StopIteration: s"),
    ("import asyncio; raise asyncio.CancelledError", "CancelledError: "),
    ("class Base(BaseException): pass\nraise Base('b')", "Base: b"),
    ("import asyncio\nawait asyncio.sleep(0)\nraise KeyboardInterrupt", "KeyboardInterrupt: "),
    ("if True print(1)", "SyntaxError: "),
    ("%nonsense", "UsageError: Line magic function `%nonsense` not found."),
]


def raises(sandbox: KernelSandbox, code: str, error: str) -> None:
    execution = sandbox.run(code, timeout=60)
    assert execution.error is not None
    assert execution.error.startswith(error)
    assert execution.traceback or "Usage" in error
    assert not execution.lost
    assert printed(sandbox, "print('on')") == "on\n"


@pytest.mark.parametrize(("code", "error"), ERRORS)
def test_any_error_is_told(new_sandbox: KernelSandbox, code: str, error: str) -> None:
    """Whatever code raises, as the first error of a session, is told and keeps the session."""
    raises(new_sandbox, code, error)


def test_any_error_is_told_after_others(kept_sandbox: KernelSandbox) -> None:
    """Whatever code raises after other errors of the session is told, too, and keeps the session."""
    for code, error in [*ERRORS, *GROUPS]:
        raises(kept_sandbox, code, error)


def test_errors_that_nobody_catches_elsewhere_are_plain(kept_sandbox: KernelSandbox) -> None:
    """An error in a thread, or in `__del__`, is on standard error, without colours."""
    code = (
        "import threading\n"
        "class Odd:\n"
        "    def __del__(self): raise ValueError('in del')\n"
        "Odd()\n"
        "thread = threading.Thread(target=lambda: 1 / 0); thread.start(); thread.join()"
    )
    execution = kept_sandbox.run(code, timeout=60)
    assert execution.error is None
    assert "ValueError: in del" in execution.stderr
    assert "ZeroDivisionError: division by zero" in execution.stderr
    assert "\x1b" not in execution.stderr


def test_mode_of_tracebacks_can_be_chosen(sandbox: KernelSandbox) -> None:
    """`%xmode` gives IPython's own tracebacks, with values."""
    sandbox.run("%xmode Verbose\ndef f(value): 1 / 0", timeout=60)
    execution = sandbox.run("f('the value')", timeout=60)
    assert "f(value='the value')" in execution.traceback
