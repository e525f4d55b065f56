"""Jupyter kernels, run by the Python of a sandbox's environment: nothing of ours is imported.

`kernel_host.py kernel CONNECTION` is one kernel. `kernel_host.py zygote FOLDER GUARD [MODULE…]` is
a process that has loaded all that a kernel needs, and MODULEs, and forks kernels: each has that in
memory at once, and shares it with the others until it is written to.

A kernel is asked for over the Unix socket `FOLDER/zygote`: a line of JSON (`connection`, the path
of the connection file; `folder`, of the sandbox; `home`, its working directory; `variables`, its
environment), answered by a line with the kernel's process ID. Then the connection is its life
line: a line "interrupt" becomes SIGINT, the end of it is the kernel's end, and the other way round.
"""

import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
from typing import Any

# What modules keep of their home when they are imported must be another folder in each sandbox.
# A path through a file descriptor is: every process has its own.
HOME_DESCRIPTOR = 99
STABLE_HOME = f"/proc/self/fd/{HOME_DESCRIPTOR}"
HAS_THREADS = "the warm-up imports leave threads running, which a fork would not have"
_REQUEST_BYTES = 1 << 20
_END_SECONDS = 5.0


@contextlib.contextmanager
def _variables(given: dict[str, str]) -> Any:
    """Have `given` in the environment for the time of one execution."""
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def run_kernel(connection: str, *, parent: int | None = None) -> None:
    """Run one kernel until it is shut down. `parent` is the process that it must not outlive."""
    from ipykernel.ipkernel import IPythonKernel
    from ipykernel.kernelapp import IPKernelApp

    class SandboxKernel(IPythonKernel):
        """Takes an execution's environment variables from the metadata of its request."""

        def __init__(self, **options: Any) -> None:
            super().__init__(**options)  # type: ignore[no-untyped-call]
            session: Any = self.session
            pack = session.pack

            def packed(message: Any) -> bytes:
                try:
                    return bytes(pack(message))
                except UnicodeEncodeError:  # half of a character, which JSON can have escaped
                    return json.dumps(message, default=str).encode()

            session.pack = packed

        async def execute_request(self, stream: Any, ident: Any, request: Any) -> None:
            given = request.get("metadata", {}).get("variables") or {}
            with _variables(given):
                await super().execute_request(stream, ident, request)  # type: ignore[no-untyped-call]

    options = ["-f", connection, "--HistoryManager.enabled=False"]
    if parent is not None:
        options.append(f"--IPKernelApp.parent_handle={parent}")
    IPKernelApp.launch_instance(argv=options, kernel_class=SandboxKernel)


def preload(folder: str) -> None:
    """Import what a kernel loads while it starts, found out by starting one."""
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
        found = file.read().splitlines()
    os.wait()
    for name in found:
        # A debugger's threads and traces are for the kernel that wants them.
        if name and not name.startswith(("__main__", "debugpy", "pydevd", "_pydev")):
            with contextlib.suppress(Exception):
                importlib.import_module(name)


def run_zygote(folder: str, guard: str, modules: list[str]) -> None:
    """Load everything, then fork a kernel for each connection."""
    home = os.open(os.environ["SANDBOX_HOME"], os.O_RDONLY | os.O_DIRECTORY)
    os.dup2(home, HOME_DESCRIPTOR, inheritable=True)
    os.close(home)
    keeper = runpy.run_path(guard)
    keeper["end_with_parent"]()
    preload(folder)
    # What a kernel does before anybody can import Matplotlib, so that charts are shown.
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    for name in modules:
        importlib.import_module(name)
    if threading.active_count() > 1:
        names = ", ".join(sorted(thread.name for thread in threading.enumerate()[1:]))
        sys.exit(f"{HAS_THREADS}: {names}")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{folder}/binding")
    listener.listen(64)
    # Whoever sees the name can connect.
    os.rename(f"{folder}/binding", f"{folder}/zygote")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.collect()
    gc.freeze()
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            try:
                _keep(connection, keeper)
            finally:
                os._exit(1)
        connection.close()


def _keep(connection: socket.socket, keeper: dict[str, Any]) -> None:
    """Fork one kernel; end it, all that it has started and its folder when the connection ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    keeper["adopt_orphans"]()
    lines = connection.makefile("rb")
    asked = json.loads(lines.readline(_REQUEST_BYTES))
    woken, waker = os.pipe()
    for descriptor in (woken, waker):
        os.set_blocking(descriptor, False)
    signal.set_wakeup_fd(waker)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    keeper_id = os.getpid()
    kernel = os.fork()
    if kernel == 0:
        try:
            signal.set_wakeup_fd(-1)
            for descriptor in (woken, waker, connection.fileno()):
                os.close(descriptor)
            _become_kernel(asked, keeper_id)
        finally:
            os._exit(0)
    os.close(HOME_DESCRIPTOR)
    connection.sendall(f"{kernel}\n".encode())
    alive = True
    poll = select.poll()  # which, other than `select`, takes any number
    poll.register(connection.fileno(), select.POLLIN)
    poll.register(woken, select.POLLIN)
    while True:
        ready = {descriptor for descriptor, _ in poll.poll()}
        if woken in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(woken, 1024)
            status = _reap(kernel)
            if status is not None:
                alive = False
                with contextlib.suppress(OSError):
                    connection.sendall(b"%d\n" % status)
                    connection.shutdown(socket.SHUT_WR)
        if connection.fileno() in ready:
            line = lines.readline(_REQUEST_BYTES)
            if not line:
                break
            if line == b"interrupt\n" and alive:
                with contextlib.suppress(OSError):
                    os.killpg(kernel, signal.SIGINT)
    signal.set_wakeup_fd(-1)
    _kill(kernel, alive=alive)
    keeper["end"](None, asked["folder"])


def _kill(kernel: int, *, alive: bool) -> None:
    """Kill the kernel's group; of one whose end was taken, the number may be another process's."""
    if alive:
        with contextlib.suppress(OSError):
            os.killpg(kernel, signal.SIGKILL)


def _reap(kernel: int) -> int | None:
    """Take the ends of processes; the exit status of the kernel if it is among them."""
    status = None
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0] != 0:
            if found[0] == kernel:
                status = os.waitstatus_to_exitcode(found[1])
    return status


def _become_kernel(asked: dict[str, Any], keeper_id: int) -> None:
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _quiet(f"{asked['folder']}/child.log")
    os.chdir(asked["home"])
    home = os.open(asked["home"], os.O_RDONLY | os.O_DIRECTORY)
    os.dup2(home, HOME_DESCRIPTOR, inheritable=True)
    os.close(home)
    os.environ.clear()
    os.environ.update(asked["variables"])
    gc.enable()
    random = sys.modules.get("numpy.random")
    if random is not None:
        random.seed()  # or every sandbox would draw the same numbers
    run_kernel(asked["connection"], parent=keeper_id)


def _quiet(log: str) -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for target, descriptor in ((0, nothing), (1, said), (2, said)):
        os.dup2(descriptor, target)
    os.close(nothing)
    os.close(said)


if __name__ == "__main__":
    if sys.argv[1] == "kernel":
        run_kernel(sys.argv[2])
    else:
        run_zygote(sys.argv[2], sys.argv[3], sys.argv[4:])
