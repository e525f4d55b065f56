"""Run `template-builder` in processes forked from one that has loaded it.

Each behaves like a new process, but saves the half second that Python takes to load the program.
Run as a program, this module is the process that is forked: a connection to its socket carries the
streams, folder, environment and arguments of one run, and then its exit code.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ["Running", "folder_of_program", "run_program", "start_program"]

# Variables that Python and some libraries read when they are loaded.
READ_WHEN_LOADED = ("COV", "FORCE_COLOR", "LANG", "LC_", "PYTHON", "TERMINAL_WIDTH")
# Modules that the program loads only for commands that need them.
NEEDED_BY_SOME = ("docker", "e2b", "httpx", "jupyter_client", "rich.live", "rich.progress")
NEVER_NEEDED = ("builder.__main__", "builder.targets.local.kernel_host", "builder.webhooks")
ROOT = Path(__file__).parents[2]
COMMAND = """
import json, os, socket, sys

connection = socket.socket(socket.AF_UNIX)
connection.connect({address!r})
socket.send_fds(connection, [b"\\0"], [0, 1, 2])
arguments = ["template-builder", *sys.argv[1:]]
job = {{"arguments": arguments, "cwd": os.getcwd(), "env": dict(os.environ)}}
connection.sendall(json.dumps(job).encode())
connection.shutdown(socket.SHUT_WR)
_, code = connection.makefile()
sys.exit(int(code) if int(code) >= 0 else 128 - int(code))
"""


def run_program(
    arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run `python -m builder`, as `subprocess.run` would, and capture its output as text."""
    running = start_program(arguments, cwd=cwd, env=env)
    out, err = running.communicate()
    return subprocess.CompletedProcess(["builder", *arguments], running.wait(), out, err)


def start_program(arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> Running:
    """Start `python -m builder`, with its output in text pipes."""
    if sys.platform.startswith("linux") and _read_when_loaded(env) == _server().variables:
        job = {"arguments": ["builder", *arguments], "cwd": str(cwd), "env": dict(env)}
        return _server().start(job)
    return subprocess.Popen(
        [sys.executable, "-m", "builder", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=env,
    )


def folder_of_program() -> str:
    """Return a folder for PATH whose `template-builder` is forked, too."""
    if sys.platform.startswith("linux"):
        return _server().folder
    return str(Path(sys.executable).parent)


def _read_when_loaded(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith(READ_WHEN_LOADED)}


@functools.cache
def _server() -> Server:
    return Server()


class Forked:
    """A process of the program, with the part of `subprocess.Popen` that tests use."""

    def __init__(self, connection: socket.socket, out: int, err: int) -> None:
        self._connection = connection
        self._answers = connection.makefile()
        self.stdout, self.stderr = open(out), open(err)  # noqa: SIM115 - of descriptors
        self.pid = int(self._answers.readline())
        self.returncode: int | None = None

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Read its output until every writer has closed it, and wait for its end."""
        with ThreadPoolExecutor(max_workers=2) as threads:
            texts = [threads.submit(stream.read) for stream in (self.stdout, self.stderr)]
            try:
                out, err = (text.result(timeout) for text in texts)
            except TimeoutError:
                self.kill()
                raise
        self.stdout.close()
        self.stderr.close()
        self.wait(timeout)
        return out, err

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, and return the exit code."""
        if self.returncode is None:
            self._connection.settimeout(timeout)
            self.returncode = int(self._answers.readline())
            self._answers.close()
            self._connection.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)


Running = subprocess.Popen[str] | Forked


class Server:
    """The process that is forked, and the connection to it."""

    def __init__(self) -> None:
        self.variables = _read_when_loaded(os.environ)
        self._temporary = tempfile.TemporaryDirectory(prefix="program-")
        self.folder = self._temporary.name
        self._address = f"{self.folder}/socket"
        command = Path(self.folder) / "template-builder"
        # A shebang takes no path with a space. To Python the first lines are a string.
        start = f"#!/bin/sh\n'''exec' \"{sys.executable}\" -IS \"$0\" \"$@\"\n' '''\n"
        command.write_text(start + COMMAND.format(address=self._address))
        command.chmod(0o755)
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, self._address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        atexit.register(self._close)
        assert self._process.stdout
        assert self._process.stdout.readline() == b"ready\n"

    def start(self, job: dict[str, Any]) -> Forked:
        """Fork a process for a run."""
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self._address)
        (out, out_end), (err, err_end) = os.pipe(), os.pipe()
        with open(os.devnull) as nothing:
            socket.send_fds(connection, [b"\0"], [nothing.fileno(), out_end, err_end])
        os.close(out_end)
        os.close(err_end)
        connection.sendall(json.dumps(job).encode())
        connection.shutdown(socket.SHUT_WR)
        return Forked(connection, out, err)

    def _close(self) -> None:
        self._process.communicate()
        self._temporary.cleanup()


def main() -> None:
    """Fork a process for each connection, until standard input ends."""
    os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"  # as the program sets it
    _load()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests
    gc.freeze()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(sys.argv[1])
        listening.listen(64)
        os.write(1, b"ready\n")
        while 0 not in select.select([listening.fileno(), 0], [], [])[0]:
            connection, _ = listening.accept()
            with connection:
                if os.fork() == 0:
                    listening.close()
                    return _wait(connection)
            _reap()
    return None


def _load() -> None:
    import builder

    for module in pkgutil.walk_packages(builder.__path__, "builder."):
        if not module.name.startswith(NEVER_NEEDED):
            import_module(module.name)
    for name in NEEDED_BY_SOME:
        import_module(name)


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _wait(connection: socket.socket) -> None:
    """Run the program in a child, and report how it ended."""
    _, streams, _, _ = socket.recv_fds(connection, 1, 3)
    job = json.loads(b"".join(iter(lambda: connection.recv(1 << 20), b"")))
    pid = os.fork()
    if pid == 0:
        connection.close()
        return _run(job, streams)
    for stream in streams:
        os.close(stream)
    connection.sendall(f"{pid}\n".encode())
    _, status = os.waitpid(pid, 0)
    connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def _run(job: dict[str, Any], streams: list[int]) -> None:
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["env"])
    sys.path[0] = job["cwd"]
    sys.argv = job["arguments"]
    if sys.argv[0] == "builder":
        runpy.run_module("builder", run_name="__main__", alter_sys=True)
    sys.modules["__main__"].__package__ = None  # by which its name is found
    sys.modules["builder.cli"].main()


if __name__ == "__main__":
    main()
