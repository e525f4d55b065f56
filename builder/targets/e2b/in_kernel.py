"""Sent to an interpreter of a sandbox before anything else runs in it, and run there.

It gives code what it has on other targets, and the code service does not: environment variables
of any value, which are put back afterwards, time-outs of awaited code, and ends as those of any
Python program. It knows nothing of this package: IPython and ipykernel are there.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import Any


@contextlib.contextmanager
def variables_set(variables: Mapping[str, str]) -> Iterator[None]:
    """Have `variables` in the environment, and put back what was there before."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def install(shell: Any, *, mark: str) -> None:
    """Change `shell` and its kernel. Code whose first line is `mark` and a JSON object has the
    variables of that."""
    run = shell.kernel.do_execute

    async def do_execute(code: str, *given: Any, **options: Any) -> Any:
        variables: dict[str, str] = {}
        if code.startswith(mark):
            head, _, code = code.partition("\n")
            variables = json.loads(head.removeprefix(mark))
        with variables_set(variables):
            try:
                return await run(code, *given, **options)
            finally:
                # An interrupt that comes too late must not keep the variables from being put back.
                with contextlib.suppress(ValueError):  # a thread of its own has no signals
                    signal.signal(signal.SIGINT, signal.SIG_IGN)

    shell.kernel.do_execute = do_execute
    _wake_on_signals()
    _replace_halves(shell.kernel.session)
    _end_as_programs(shell)
    _keep_lines(shell)
    _keep_quotes(shell)
    # What is run here counts for nobody. Its number is given again, which the database of IPython's
    # history, once it has it, reports in the output of the code.
    shell.history_manager.enabled = False
    shell.execution_count -= 1
    # IPython may have saved it already, and prints a complaint when a line has a number again.
    shell.history_manager.reset(new_session=True)


def _wake_on_signals() -> None:
    """An event loop that waits sees a signal when something else wakes it, unless this does."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    asyncio.get_running_loop().add_reader(reading, os.read, reading, 4096)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)


def _replace_halves(session: Any) -> None:
    """A message that holds half of a character cannot be sent, and what waits for it would wait
    for ever."""
    pack = session.pack

    def packed(message: Any) -> bytes:
        try:
            return bytes(pack(message))
        except UnicodeEncodeError:
            return json.dumps(message, default=str, ensure_ascii=False).encode("utf-8", "replace")

    session.pack = packed


def _end_as_programs(shell: Any) -> None:
    """Have `exit` end the code, not the interpreter; one that reports no failure is no error."""
    run, show = shell.run_code, shell.showtraceback

    def ended_well(error: BaseException | None) -> bool:
        return isinstance(error, SystemExit) and (error.code is None or error.code == 0)

    async def run_code(code: Any, result: Any = None, **options: Any) -> Any:
        failed = await run(code, result, **options)
        if result is not None and ended_well(result.error_in_exec):
            result.error_in_exec = None
        return failed

    def showtraceback(exception: Any = None, *given: Any, **options: Any) -> None:
        error = (exception or sys.exc_info())[1]
        if isinstance(error, SystemExit):  # after which IPython warns
            warnings.filterwarnings("ignore", message="To exit: use 'exit'")
        if not ended_well(error):
            show(exception, *given, **options)

    shell.run_code, shell.showtraceback, shell.ask_exit = run_code, showtraceback, sys.exit
    sys.argv[:] = [""]
    for name in ("exit", "quit"):
        shell.user_ns.pop(name, None)
        # IPython hides them while code runs, and has kept what they were.
        shell.builtin_trap.auto_builtins.pop(name, None)
        shell.builtin_trap._orig_builtins[name] = sys.exit  # noqa: SLF001


def _keep_lines(shell: Any) -> None:
    """The code service joins the parts of a traceback without the line ends between them."""
    show = shell._showtraceback  # noqa: SLF001 - IPython has it for kernels to replace

    def showtraceback(kind: Any, error: Any, parts: list[str]) -> None:
        show(kind, error, [f"{part}\n" for part in parts[:-1]] + parts[-1:])

    shell._showtraceback = showtraceback  # noqa: SLF001


def _keep_quotes(shell: Any) -> None:
    """The code service takes the outer quotes off the text of a result."""
    formatted = shell.display_formatter.format

    def quoted(*given: Any, **options: Any) -> Any:
        data, metadata = formatted(*given, **options)
        text = data.get("text/plain")
        if text and text[0] == text[-1] and text[0] in "'\"":
            data["text/plain"] = f"'{text}'"
        return data, metadata

    shell.display_formatter.format = quoted
