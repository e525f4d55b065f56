"""Prepare an interpreter of a sandbox: this source is sent there and runs before any other code.

It gives code what other targets give it and the code service does not: environment variables with
any value, restored afterwards; time-outs of awaited code; `exit` as in any Python program. It can
import IPython and ipykernel, but nothing of this package.
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
    """Set environment variables for the `with` block."""
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
    """Change `shell` and its kernel. Code whose first line is `mark` and a JSON object runs with
    the object as environment variables."""
    run = shell.kernel.do_execute

    async def do_execute(code: str, *args: Any, **options: Any) -> Any:
        variables: dict[str, str] = {}
        if code.startswith(mark):
            head, _, code = code.partition("\n")
            variables = json.loads(head.removeprefix(mark))
        with variables_set(variables):
            try:
                return await run(code, *args, **options)
            finally:
                # A late interrupt must not prevent the variables from being restored.
                with contextlib.suppress(ValueError):  # only the main thread handles signals
                    signal.signal(signal.SIGINT, signal.SIG_IGN)

    shell.kernel.do_execute = do_execute
    _wake_on_signals()
    _replace_halves(shell.kernel.session)
    _end_as_programs(shell)
    _keep_lines(shell)
    _keep_quotes(shell)
    # This execution does not count: its number is used again, about which the database of IPython's
    # history would complain in the output of the code, now or later.
    shell.history_manager.enabled = False
    shell.execution_count -= 1
    shell.history_manager.reset(new_session=True)


def _wake_on_signals() -> None:
    """Have a signal wake the event loop, which would notice it at the next event only."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    asyncio.get_running_loop().add_reader(reading, os.read, reading, 4096)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)


def _replace_halves(session: Any) -> None:
    """Replace lone surrogates in messages: the kernel cannot send one, and its client would wait
    for ever."""
    pack = session.pack

    def packed(message: Any) -> bytes:
        try:
            return bytes(pack(message))
        except UnicodeEncodeError:
            return json.dumps(message, default=str, ensure_ascii=False).encode("utf-8", "replace")

    session.pack = packed


def _end_as_programs(shell: Any) -> None:
    """Have `exit` end the code instead of the interpreter, without an error if it reports none."""
    run, show = shell.run_code, shell.showtraceback

    def ended_well(error: BaseException | None) -> bool:
        return isinstance(error, SystemExit) and (error.code is None or error.code == 0)

    async def run_code(code: Any, result: Any = None, **options: Any) -> Any:
        failed = await run(code, result, **options)
        if result is not None and ended_well(result.error_in_exec):
            result.error_in_exec = None
        return failed

    def showtraceback(exception: Any = None, *args: Any, **options: Any) -> None:
        error = (exception or sys.exc_info())[1]
        if isinstance(error, SystemExit):  # IPython would warn
            warnings.filterwarnings("ignore", message="To exit: use 'exit'")
        if not ended_well(error):
            show(exception, *args, **options)

    shell.run_code, shell.showtraceback, shell.ask_exit = run_code, showtraceback, sys.exit
    sys.argv[:] = [""]
    for name in ("exit", "quit"):
        shell.user_ns.pop(name, None)
        # IPython hides the builtins while code runs, and keeps their originals.
        shell.builtin_trap.auto_builtins.pop(name, None)
        shell.builtin_trap._orig_builtins[name] = sys.exit  # noqa: SLF001


def _keep_lines(shell: Any) -> None:
    """End the lines of a traceback: the code service joins them without line ends."""
    show = shell._showtraceback  # noqa: SLF001 - made for kernels to replace

    def showtraceback(kind: Any, error: Any, parts: list[str]) -> None:
        show(kind, error, [f"{part}\n" for part in parts[:-1]] + parts[-1:])

    shell._showtraceback = showtraceback  # noqa: SLF001


def _keep_quotes(shell: Any) -> None:
    """Quote the text of a result once more: the code service strips the outer quotes."""
    formatted = shell.display_formatter.format

    def quoted(*args: Any, **options: Any) -> Any:
        data, metadata = formatted(*args, **options)
        text = data.get("text/plain")
        if text and text[0] == text[-1] and text[0] in "'\"":
            data["text/plain"] = f"'{text}'"
        return data, metadata

    shell.display_formatter.format = quoted
