"""The process that kernels are forked from.

A kernel is requested over the Unix socket `FOLDER/zygote` by a line of JSON (`connection`, the path
of the connection file; `folder`, of the sandbox; `home`, its working directory; `log`, the file for
its messages; `variables`, its environment), and answered by a line with the kernel's process ID. It
runs once the line "start" comes; each line "interrupt" becomes SIGINT. When the connection ends the
kernel ends, and the other way round. With `walls`, the kernel is behind these, with paths as they
are there; see `.keeper`.
"""

from __future__ import annotations

import base64
import contextlib
import gc
import importlib
import os
import runpy
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

from . import HAS_THREADS, HOME_DESCRIPTOR, installs, memory, reseed, wall
from .keeper import fork, keep, wait_for_start
from .waiting import Waiting

_TEMPLATE = f"{sys.prefix}/template"  # kernels have another prefix


def preload(folder: str) -> None:
    """Import what a kernel loads while it starts, which is determined by starting one."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        with contextlib.suppress(BaseException):
            os.close(reading)
            _quiet(f"{folder}/preload.log")
            from ipykernel.connect import write_connection_file
            from ipykernel.kernelapp import IPKernelApp

            connection = f"{folder}/preload.json"
            write_connection_file(connection, transport="ipc", ip=f"{folder}/preload", key=b"key")
            kernel: Any = IPKernelApp.instance()
            kernel.initialize(["-f", connection, "--HistoryManager.enabled=False"])
            with open(writing, "w", encoding="utf-8") as names:
                names.write("\n".join(sys.modules))
        os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as file:
        modules = file.read().splitlines()
    os.wait()
    for name in modules:
        # A debugger starts threads and traces, which only a kernel that uses it should have.
        if name and not name.startswith(("__main__", "debugpy", "pydevd", "_pydev")):
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    importlib.import_module(f"{__package__}.python")


def run_zygote(folder: str, guard: str, user: str, idle: float | None, modules: list[str]) -> None:
    """Load all modules, then fork a kernel for each connection. Without walls, `user` is empty.

    With `idle`, end after as many seconds without a kernel.
    """
    if home := os.environ.get("SANDBOX_HOME"):
        _keep_open(home)
    guarding = _begin(guard, user)
    preload(folder)
    # A kernel sets this before Matplotlib can be imported, so that charts are shown.
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    for name in modules:
        importlib.import_module(name)
    if threading.active_count() > 1:
        names = ", ".join(sorted(thread.name for thread in threading.enumerate()[1:]))
        sys.exit(f"{HAS_THREADS}: {names}")
    importlib.import_module(f"{__package__}.python").prepare()
    gc.collect()
    reseed.keep()
    gc.freeze()
    memory.use_huge_pages()
    _fork_kernels(folder, guarding, _become_kernel, idle)


def run_starter(folder: str, guard: str, user: str) -> None:
    """Start a new interpreter behind walls for each connection."""
    _fork_kernels(folder, _begin(guard, user), _start_kernel)


def _begin(guard: str, user: str) -> dict[str, Any]:
    """Become an ordinary user, and end with the parent; return the names of the guard."""
    guarding = runpy.run_path(guard)
    if user:
        wall.become(int(user))
        # The kernel of a keeper that was killed: its namespaces end when it is reaped.
        guarding["adopt_orphans"]()
    guarding["end_with_parent"]()
    return guarding


def _fork_kernels(
    folder: str,
    guarding: dict[str, Any],
    become_kernel: Callable[[dict[str, Any], int], None],
    idle: float | None = None,
) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{folder}/binding")
    listener.listen(64)
    # Once the name exists, the socket accepts connections.
    os.rename(f"{folder}/binding", f"{folder}/zygote")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    waiting = Waiting(folder, idle)
    while waiting.wait(listener):
        connection, _ = listener.accept()
        with contextlib.suppress(OSError):
            if fork(connection) == 0:
                listener.close()
                waiting.close()
                try:
                    keep(connection, guarding, become_kernel)
                finally:
                    os._exit(1)
        connection.close()
    os.unlink(f"{folder}/zygote")


def _become_kernel(request: dict[str, Any], keeper_id: int) -> None:
    walls = request.get("walls")
    _enter(request)
    if not walls:
        _keep_open(request["home"])
    os.environ.clear()
    os.environ.update(request["variables"])
    installs.enter(os.environ["VIRTUAL_ENV"])
    gc.enable()
    # The template's own code runs in sandboxes that are used, and within their limits.
    own_code = os.path.exists(f"{_TEMPLATE}/warmup_reseed.py")
    if own_code:
        wait_for_start()
    try:
        reseed.reseed(_TEMPLATE)
    except RuntimeError as error:
        os.write(2, f"{error}\n".encode())
        os._exit(1)
    from .python import run_kernel, set_up  # only after `preload` has found its imports

    set_up(request["connection"])
    if not own_code:
        wait_for_start()
    # Behind walls everything ends with these.
    run_kernel(request["connection"], parent=None if walls else keeper_id)


def _start_kernel(request: dict[str, Any], _keeper_id: int) -> None:
    _enter(request)
    command = request["walls"]["kernel"]
    wait_for_start()
    os.execve(command[0], command, request["variables"])  # noqa: S606 - no shell is wanted


def _enter(request: dict[str, Any]) -> None:
    """Make this process that of a kernel, and give up all that it must not have."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _quiet(request["log"])
    os.chdir(request["home"])
    if walls := request.get("walls"):
        wall.give_up_capabilities()
        wall.close_descriptors()
        wall.limit(walls["limits"])
        wall.refuse(base64.b64decode(walls["program"]))


def _keep_open(home: str) -> None:
    descriptor = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
    os.dup2(descriptor, HOME_DESCRIPTOR, inheritable=True)
    os.close(descriptor)


def _quiet(log: str) -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for target, descriptor in ((0, nothing), (1, output), (2, output)):
        os.dup2(descriptor, target)
    os.close(nothing)
    os.close(output)
