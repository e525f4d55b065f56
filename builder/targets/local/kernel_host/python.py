"""A kernel and its shell, which run code as a Python program runs."""

from __future__ import annotations

import builtins
import contextlib
import copy
import functools
import json
import os
import sys
import uuid
import warnings
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

from ipykernel.displayhook import ZMQShellDisplayHook
from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp
from ipykernel.zmqshell import ZMQDisplayPublisher
from ipykernel.zmqshell import ZMQInteractiveShell as JupyterShell
from IPython.core.application import ENV_CONFIG_DIRS, SYSTEM_CONFIG_DIRS
from IPython.core.error import UsageError
from traitlets import Type
from traitlets.config import Config
from zmq import RCVHWM, SNDHWM, XPUB_NODROP

from . import installs
from .interrupts import Interrupts
from .output import Messages, connect_streams, restore_streams, usable_streams
from .tracebacks import message_of, rendered

_WAITING = 16  # messages
_SETTINGS = {
    "HistoryManager": {"enabled": False},
    "InteractiveShell": {"enable_tip": False},  # it would draw from `random`
}


def prepare() -> None:
    """Create a kernel and its shell without connections: half of a start, which processes forked
    from this one need not repeat."""
    installs.watch()
    app = KernelApp.instance(
        kernel_class=PythonKernel, outstream_class=None, config=Config(_SETTINGS)
    )
    app.config_file_paths = [*ENV_CONFIG_DIRS, *SYSTEM_CONFIG_DIRS]
    app.load_config_file()
    kernel: Any = PythonKernel.instance(parent=app)
    kernel.shell._sys_modules_keys = set(sys.modules)  # noqa: SLF001 - see `init_code`


def set_up(connection: str) -> None:
    """Read the connection file and create the profile folder, before `run_kernel`."""
    app: Any = KernelApp.instance()
    app.connection_file = connection
    app.init_profile_dir()
    app.init_connection_file()


def run_kernel(connection: str, *, parent: int | None = None) -> None:
    """Run the kernel that `prepare` has created until it is shut down. `parent` is the process that
    it must not outlive."""
    app: Any = KernelApp.instance()
    app.connection_file = connection
    if parent is not None:
        app.parent_handle = parent
    app.initialize([])
    connect_streams(os.path.dirname(connection), app.log)
    _hide_host()
    _run_loop(app)


def _hide_host() -> None:
    """Remove traces of this program from how the interpreter was started."""
    sys.argv[:] = [""]
    if hasattr(sys, "orig_argv"):
        sys.orig_argv[:] = [sys.executable]
    os.environ.pop("JPY_PARENT_PID", None)
    sys.path[:] = ["", *(entry for entry in sys.path if entry)]
    # `multiprocessing` keeps the folder in which it was imported, the zygote's, for its workers.
    process: Any = sys.modules.get("multiprocessing.process")
    if process:
        process.ORIGINAL_DIR = os.getcwd()


def _run_loop(app: Any) -> None:
    """Run the kernel until it is shut down. An exception that ends the event loop comes from a task
    that code has left behind, and ends only that task."""
    start = app.start
    while not app.shell.exit_now:
        with contextlib.suppress(SystemExit, KeyboardInterrupt):
            start()
        start = app.io_loop.start


def _status(error: BaseException | None) -> int:
    """Return the exit status of a program that ends with this error."""
    code = error.code if isinstance(error, SystemExit) else error
    return code if isinstance(code, int) else int(code is not None)


def _ended_well(error: BaseException | None) -> bool:
    return isinstance(error, SystemExit) and _status(error) == 0


class DisplayHook(ZMQShellDisplayHook):
    """Shows the value of the last expression, whatever the code did to its streams."""

    def finish_displayhook(self) -> None:
        """Publish it."""
        with usable_streams():
            super().finish_displayhook()  # type: ignore[no-untyped-call]


class DisplayPublisher(ZMQDisplayPublisher):
    """Shows displayed objects, whatever the code did to its streams."""

    def _flush_streams(self) -> None:
        with usable_streams():
            super()._flush_streams()  # type: ignore[no-untyped-call]


# Libraries detect Jupyter by the name of this class and of its module.
class ZMQInteractiveShell(JupyterShell):
    """Runs code that ends and fails as a Python program does."""

    __module__ = JupyterShell.__module__
    displayhook_class = Type(DisplayHook)
    display_pub_class = Type(DisplayPublisher)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)  # type: ignore[no-untyped-call]
        self._last_traceback: list[str] | None = None
        self._message: tuple[BaseException, tuple[str, bool]] | None = None
        self.process: int | None = None  # set when the kernel is connected

    def init_builtins(self) -> None:
        """Make `exit` and `quit` raise SystemExit, also in imported modules."""
        super().init_builtins()  # type: ignore[no-untyped-call]
        for name in ("exit", "quit"):
            self.builtin_trap.auto_builtins.pop(name, None)
            setattr(builtins, name, sys.exit)

    def init_user_ns(self) -> None:
        """Use `exit` and `quit` of the built-in module."""
        super().init_user_ns()  # type: ignore[no-untyped-call]
        for name in ("exit", "quit"):
            self.user_ns.pop(name, None)

    def ask_exit(self) -> None:
        """End the code."""
        sys.exit()

    async def run_cell_async(self, *arguments: Any, **options: Any) -> Any:
        """Run the code of one execution; in a process that it has forked, end with it."""
        self._last_traceback = self._message = None
        result = await super().run_cell_async(*arguments, **options)
        if os.getpid() != self.process:
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
        """Publish an error, unless it is an exit with status 0."""
        error = (exc_tuple or sys.exc_info())[1]
        if isinstance(error, SystemExit):
            # The caller warns next.
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
        if os.getpid() != self.process:  # in a child, which has no connection
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
        """Keep no second traceback in IPython's history."""
        return {"ename": type(exception).__name__, "evalue": "", "traceback": []}

    def _name_of(self, file: str) -> str:
        label = self.compile.format_code_name(file)
        return " ".join(label) if label else file

    def _message_of(self, error: BaseException) -> tuple[str, bool]:
        if self._message is None or self._message[0] is not error:  # making it may be slow
            self._message = error, message_of(error)
        return self._message[1]

    def _readable(self, result: Any) -> Any:
        """Return a result whose error has a message that can be sent."""
        for name in ("error_before_exec", "error_in_exec"):
            error = getattr(result, name)
            if error is not None and not self._message_of(error)[1]:
                substitute = type(type(error).__name__, (Exception,), {})
                result = copy.copy(result)
                setattr(result, name, substitute(self._message_of(error)[0]))
        return result


class PythonKernel(IPythonKernel):
    """Passes interrupts on to running code only, and takes an execution's variables and limit from
    the metadata of its request."""

    shell_class = Type(ZMQInteractiveShell)

    @classmethod
    def instance(cls, **options: Any) -> PythonKernel:
        """Return the kernel; a second call, with `session`, connects it."""
        kernel: PythonKernel = super().instance(**options)
        if "session" in options:
            kernel._connect(**options)
        return kernel

    def _connect(self, **options: Any) -> None:
        """Do what the constructor does with these options, and with the environment."""
        for name, value in options.items():
            if value is not None:
                setattr(self, name, value)
        self.ident = str(uuid.uuid4())
        app: Any = self.parent
        shell: Any = self.shell
        session: Any = self.session
        shell.ipython_dir, shell.profile_dir = app.ipython_dir, self.profile_dir
        shell.process = os.getpid()
        shell.init_environment()
        shell.init_virtualenv()
        for publisher in (shell.displayhook, shell.display_pub):
            publisher.session, publisher.pub_socket = session, self.iopub_socket
        shell.displayhook.topic = self._topic("execute_result")  # type: ignore[no-untyped-call]
        self.interrupts = Interrupts(app.abs_connection_file)
        session.pack = functools.partial(_packed, session.pack)
        self._messages = Messages(session)

    async def execute_request(self, stream: Any, ident: Any, request: Any) -> None:
        """Run code."""
        metadata, request_id = request.get("metadata", {}), request["header"]["msg_id"]
        self._messages.limit, self._messages.request = metadata.get("limit"), request_id
        self.interrupts.begin(request_id)
        with _variables(metadata.get("variables") or {}):
            await super().execute_request(stream, ident, request)  # type: ignore[no-untyped-call]

    async def do_execute(self, *arguments: Any, **options: Any) -> Any:
        """Run code, and leave streams that the kernel can use."""
        try:
            return await super().do_execute(*arguments, **options)  # type: ignore[no-untyped-call]
        finally:
            restore_streams()

    def pre_handler_hook(self) -> None:
        """Accept no signals: only executions do."""

    def post_handler_hook(self) -> None:
        """Accept no more signals."""
        self.interrupts.end()

    @contextlib.contextmanager
    def _cancel_on_sigint(self, _future: Any) -> Iterator[None]:
        yield  # the default handler would not wake the event loop


class KernelApp(IPKernelApp):
    """Leaves `sys.stdout` and `sys.stderr` alone, drops no message, and has no command line."""

    _configured = _connection_read = False

    def parse_command_line(self, argv: Any = None) -> None:
        """Parse nothing: a parser for all options of IPython takes a fifth of the start."""

    def load_config_file(self, *arguments: Any, **options: Any) -> None:
        """Load the configuration once, which `prepare` does."""
        if not self._configured:
            super().load_config_file(*arguments, **options)  # type: ignore[no-untyped-call]
            self._configured = True

    def init_connection_file(self) -> None:
        """Read the file once: `set_up` may have done so."""
        if not self._connection_read:
            super().init_connection_file()  # type: ignore[no-untyped-call]
            self._connection_read = True

    def init_heartbeat(self) -> None:
        """Have no heartbeat: the application is told when the process ends."""

    def init_code(self) -> None:
        """Run startup files as IPython does, but do not list the loaded modules again: that would
        touch, and so copy, much of the memory that a fork shares."""
        self._run_startup_files()  # type: ignore[no-untyped-call]
        self._run_exec_lines()  # type: ignore[no-untyped-call]
        self._run_exec_files()  # type: ignore[no-untyped-call]
        shell: Any = self.shell
        shell.user_ns_hidden.update(shell.user_ns)

    def init_iopub(self, context: Any) -> None:
        """Make code that displays faster than the application reads wait, as code that prints."""
        for option, value in ((XPUB_NODROP, 1), (SNDHWM, _WAITING), (RCVHWM, _WAITING)):
            context.setsockopt(option, value)
        super().init_iopub(context)  # type: ignore[no-untyped-call]


def _packed(pack: Callable[[Any], bytes], message: Any) -> bytes:
    try:
        return pack(message)
    except UnicodeEncodeError:  # half of a character, which JSON can have escaped
        return json.dumps(message, default=str).encode()


@contextlib.contextmanager
def _variables(added: dict[str, str]) -> Iterator[None]:
    """Set environment variables for one execution."""
    before = {name: os.environ.get(name) for name in added}
    os.environ.update(added)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
