"""What code expects of the Python that runs it: the kernel and shell of a sandbox."""

from __future__ import annotations

import builtins
import contextlib
import copy
import os
import sys
import warnings
from collections.abc import Iterator
from types import CodeType
from typing import Any

from ipykernel.displayhook import ZMQShellDisplayHook
from ipykernel.ipkernel import IPythonKernel
from ipykernel.zmqshell import ZMQDisplayPublisher
from ipykernel.zmqshell import ZMQInteractiveShell as JupyterShell
from IPython.core.error import UsageError
from traitlets import Type

from .interrupts import Interrupts
from .output import usable_streams
from .tracebacks import message_of, rendered


def hide_host() -> None:
    """Leave nothing of this program in what tells code how its interpreter was started."""
    sys.argv[:] = [""]
    if hasattr(sys, "orig_argv"):
        sys.orig_argv[:] = [sys.executable]
    os.environ.pop("JPY_PARENT_PID", None)
    sys.path[:] = ["", *(entry for entry in sys.path if entry)]
    # For its workers `multiprocessing` keeps the folder that it was imported in: the zygote's.
    process: Any = sys.modules.get("multiprocessing.process")
    if process:
        process.ORIGINAL_DIR = os.getcwd()


def run_loop(app: Any) -> None:
    """Run the kernel until it is shut down: what ends the event loop by an exception was a task
    that code has left, and ends that task only."""
    start = app.start
    while not app.shell.exit_now:
        with contextlib.suppress(SystemExit, KeyboardInterrupt):
            start()
        start = app.io_loop.start


def _status(error: BaseException | None) -> int:
    """Return the exit status of a program that ends so."""
    code = error.code if isinstance(error, SystemExit) else error
    return code if isinstance(code, int) else int(code is not None)


def _ended_well(error: BaseException | None) -> bool:
    return isinstance(error, SystemExit) and _status(error) == 0


class DisplayHook(ZMQShellDisplayHook):
    """Shows the value of the last expression, whatever the code has made of its streams."""

    def finish_displayhook(self) -> None:
        """Publish it."""
        with usable_streams():
            super().finish_displayhook()  # type: ignore[no-untyped-call]


class DisplayPublisher(ZMQDisplayPublisher):
    """Shows what is displayed, whatever the code has made of its streams."""

    def _flush_streams(self) -> None:
        with usable_streams():
            super()._flush_streams()  # type: ignore[no-untyped-call]


# Libraries ask for the name of the class and of its module to find out whether they run in Jupyter.
class ZMQInteractiveShell(JupyterShell):
    """Runs code so that its ends and errors are those of a Python program."""

    __module__ = JupyterShell.__module__
    displayhook_class = Type(DisplayHook)
    display_pub_class = Type(DisplayPublisher)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)  # type: ignore[no-untyped-call]
        self._last_traceback: list[str] | None = None
        self._message: tuple[BaseException, tuple[str, bool]] | None = None
        self._process = os.getpid()

    def init_builtins(self) -> None:
        """Have `exit` and `quit` raise SystemExit, in imported modules, too."""
        super().init_builtins()  # type: ignore[no-untyped-call]
        for name in ("exit", "quit"):
            self.builtin_trap.auto_builtins.pop(name, None)
            setattr(builtins, name, sys.exit)

    def init_user_ns(self) -> None:
        """Leave those to the built-in module."""
        super().init_user_ns()  # type: ignore[no-untyped-call]
        for name in ("exit", "quit"):
            self.user_ns.pop(name, None)

    def ask_exit(self) -> None:
        """End the code."""
        sys.exit()

    async def run_cell_async(self, *arguments: Any, **options: Any) -> Any:
        """Run one execution's code; a process that it has forked ends with it."""
        self._last_traceback = self._message = None
        result = await super().run_cell_async(*arguments, **options)
        if os.getpid() != self._process:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(_status(result.error_in_exec) & 0xFF)
        return self._readable(result)

    async def run_code(
        self, code_obj: CodeType, result: Any = None, *, async_: bool = False
    ) -> bool:
        """Run one statement."""
        interrupts = self.kernel.interrupts
        before = interrupts.pass_on(asynchronous=async_)
        try:
            if interrupts.take_pending():
                code_obj, async_ = compile("raise KeyboardInterrupt", "<interrupt>", "exec"), False
            failed: bool = await super().run_code(code_obj, result, async_=async_)  # type: ignore[no-untyped-call]
        finally:
            interrupts.restore(before)
        if result is not None and _ended_well(result.error_in_exec):
            result.error_in_exec = None
        return failed

    def showtraceback(self, exc_tuple: Any = None, *arguments: Any, **options: Any) -> None:
        """Publish an error; one that ended the code well is none."""
        error = (exc_tuple or sys.exc_info())[1]
        if isinstance(error, SystemExit):
            # What the caller does next is to warn.
            warnings.filterwarnings("ignore", message="To exit: use 'exit'")
            if _ended_well(error):
                return
        if (
            error is None
            or isinstance(error, (SyntaxError, UsageError))
            or hasattr(type(error), "_render_traceback_")
            or self.InteractiveTB.mode != "Context"
        ):
            super().showtraceback(exc_tuple, *arguments, **options)
            return
        sys.last_type, sys.last_value, sys.last_traceback = type(error), error, error.__traceback__
        message = self._message_of(error)
        self._showtraceback(type(error), error, rendered(error, message, self._name_of))

    def _showtraceback(self, etype: type, evalue: BaseException, stb: list[str]) -> None:
        message, _ = self._message_of(evalue)
        if os.getpid() != self._process:  # of a child, which has no connection
            if not isinstance(evalue, SystemExit) or isinstance(evalue.code, str):
                sys.stderr.write("\n".join([*stb, ""]))
            return
        before = self.kernel.interrupts.hold_back()
        with usable_streams():
            super()._showtraceback(etype, message, stb)  # type: ignore[no-untyped-call]
        self.kernel.interrupts.restore(before)

    def _format_exception_for_storage(
        self, exception: BaseException, *_: Any, **__: Any
    ) -> dict[str, Any]:
        """What IPython keeps of an error in its history: no second traceback."""
        return {"ename": type(exception).__name__, "evalue": "", "traceback": []}

    def _name_of(self, file: str) -> str:
        label = self.compile.format_code_name(file)
        return " ".join(label) if label else file

    def _message_of(self, error: BaseException) -> tuple[str, bool]:
        if self._message is None or self._message[0] is not error:  # making it may take its time
            self._message = error, message_of(error)
        return self._message[1]

    def _readable(self, result: Any) -> Any:
        """Return a result whose error has a message that can be sent."""
        for name in ("error_before_exec", "error_in_exec"):
            error = getattr(result, name)
            if error is not None and not self._message_of(error)[1]:
                stand_in = type(type(error).__name__, (Exception,), {})
                result = copy.copy(result)
                setattr(result, name, stand_in(self._message_of(error)[0]))
        return result


class PythonKernel(IPythonKernel):
    """Passes interrupts on to the code that runs, and to nothing else."""

    shell_class = Type(ZMQInteractiveShell)

    def __init__(self, **options: Any) -> None:
        self.interrupts = Interrupts(options["parent"].abs_connection_file)
        super().__init__(**options)  # type: ignore[no-untyped-call]

    async def execute_request(self, stream: Any, ident: Any, request: Any) -> None:
        """Run code."""
        self.interrupts.begin(request["header"]["msg_id"])
        await super().execute_request(stream, ident, request)  # type: ignore[no-untyped-call]

    def pre_handler_hook(self) -> None:
        """Take no signal yet: only an execution does."""

    def post_handler_hook(self) -> None:
        """Take no more signals."""
        self.interrupts.end()

    @contextlib.contextmanager
    def _cancel_on_sigint(self, _future: Any) -> Iterator[None]:
        yield  # the other handler would not wake the event loop
