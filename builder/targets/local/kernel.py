"""A local sandbox: a Jupyter kernel in a fresh folder that is its home and working directory.

The only owner of jupyter_client. A guard process ends the kernel and removes the folder when this
process closes the sandbox, or dies.
"""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import secrets
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.connect import write_connection_file

from builder import processes
from builder.errors import SandboxError, from_os_error
from builder.execution import Execution, plain
from builder.targets.local.place import sandbox_variables

__all__ = ["KernelSandbox"]

_START_SECONDS = 120.0
_WARM_SECONDS = 600.0
_INTERRUPT_SECONDS = 5.0
_POLL_SECONDS = 0.2
_CLOSE_SECONDS = 10.0
_LONGEST_FOLDER = 70
# Less than what a kernel needs for its own files.
_FULL_BYTES = 64 << 10


class KernelSandbox:
    """A started kernel. Use it from one thread at a time; `close` it when done."""

    def __init__(self, environment: Path, *, warm: Sequence[str], env: Mapping[str, str]) -> None:
        """Start a kernel of `environment`, import the modules of `warm` in it, wait until it is
        ready. Raises `SandboxError`, and then leaves nothing behind."""
        start = time.perf_counter()
        self._held = contextlib.ExitStack()
        self._guard: subprocess.Popen[bytes] | None = None
        self._client = BlockingKernelClient()
        try:
            self._folder = Path(tempfile.mkdtemp(prefix="template-", dir=_short_folder()))
        except OSError as error:
            raise from_os_error(error, "making the sandbox's folder") from error
        self.home = self._folder / "home"
        try:
            self._start(environment, env)
            self.timings = {"created": round(time.perf_counter() - start, 6)}
            self._wait_until_ready()
            self.timings["ready"] = round(time.perf_counter() - start, 6)
            self._warm_up(warm)
        except BaseException as error:
            full = (
                isinstance(error, Exception) and shutil.disk_usage(self._folder).free < _FULL_BYTES
            )
            self.close()
            if full:
                told = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._folder.parent))
                raise from_os_error(told, "starting the sandbox") from error
            if isinstance(error, shutil.Error):
                raise SandboxError(f"the sandbox's home cannot be made: {error}") from error
            if isinstance(error, OSError):
                raise from_os_error(error, "starting the sandbox") from error
            raise

    def _start(self, environment: Path, env: Mapping[str, str]) -> None:
        shutil.copytree(environment / "home", self.home, symlinks=True)
        connection = self._folder / "connection.json"
        write_connection_file(
            str(connection), transport="ipc", ip=str(self._folder / "socket"), key=_key()
        )
        variables = sandbox_variables(env, path=environment, home=self.home)
        variables["IPYTHONDIR"] = str(self._folder / "ipython")
        command = [str(environment / "bin" / "python"), "-m", "ipykernel_launcher"]
        command += ["-f", str(connection), "--HistoryManager.enabled=False"]
        self._guard = self._held.enter_context(
            processes.started(
                command,
                folder=self._folder,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=self.home,
                env=variables,
            )
        )
        self._client.load_connection_file(str(connection))
        self._client.start_channels(stdin=False)

    def _warm_up(self, warm: Sequence[str]) -> None:
        if not warm:
            return
        found = self.run(
            f"for _name in {list(warm)!r}: __import__('importlib').import_module(_name)\ndel _name",
            timeout=_WARM_SECONDS,
            silent=True,
        )
        if found.error or found.timed_out:
            raise SandboxError(
                f"the warm-up imports fail in the sandbox: {found.error or 'no end'}",
                hint="correct `warmup.imports`",
            )

    def run(self, code: str, *, timeout: float, silent: bool = False) -> Execution:
        """Run code. After `timeout` seconds it is interrupted; a kernel that does not obey is
        killed, and with it the sandbox. Raises `SandboxError` when the kernel is gone."""
        if self._guard is None or self._guard.poll() is not None:
            raise SandboxError("the sandbox is closed, or its kernel was killed")
        try:
            return self._run(code, timeout=timeout, silent=silent)
        except (ValueError, KeyError, TypeError) as error:
            raise SandboxError(f"the kernel's answer cannot be read: {error}") from error

    def _run(self, code: str, *, timeout: float, silent: bool) -> Execution:
        start = time.monotonic()
        request = self._client.execute(
            code, silent=silent, store_history=not silent, allow_stdin=False, stop_on_error=False
        )
        collected = _Collected()
        if not self._collect(request, collected, start + timeout):
            collected.timed_out = True
            self._interrupt()
            if not self._collect(request, collected, time.monotonic() + _INTERRUPT_SECONDS):
                self.close()
                return collected.execution(time.monotonic() - start)
        self._replied(request, _INTERRUPT_SECONDS)
        return collected.execution(time.monotonic() - start)

    def close(self) -> None:
        """End the kernel and all it started, remove its folder. Closing twice is fine."""
        with contextlib.suppress(Exception):
            self._client.stop_channels()
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            if self._guard and self._guard.stdin:
                self._guard.stdin.close()
                self._guard.wait(timeout=_CLOSE_SECONDS)
        self._held.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _interrupt(self) -> None:
        with contextlib.suppress(OSError):
            if self._guard and self._guard.stdin:
                self._guard.stdin.write(b"interrupt\n")
                self._guard.stdin.flush()

    def _alive(self) -> bool:
        stdout = self._guard.stdout if self._guard else None
        # The guard closes its output when the kernel is gone: readable means end of file.
        return stdout is not None and not select.select([stdout], [], [], 0)[0]

    def _wait_until_ready(self) -> None:
        """Ready is a kernel that answers, and whose output is heard: a subscription takes a moment
        to arrive, and what is published before is lost."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            request = self._client.kernel_info()
            while not self._replied(request, _POLL_SECONDS):
                if not self._alive():
                    raise SandboxError(f"the kernel did not start:\n{self._said()}")
                if time.monotonic() > deadline:
                    break
            if self._collect(request, _Collected(), time.monotonic() + _POLL_SECONDS):
                return
        raise SandboxError(f"the kernel was not ready within {_START_SECONDS:.0f} seconds")

    def _replied(self, request: str, timeout: float) -> bool:
        """Take replies until the one to `request` (True) or none came for `timeout` seconds."""
        with contextlib.suppress(queue.Empty):
            while True:
                answer = self._client.get_shell_msg(timeout=timeout)
                if answer["parent_header"].get("msg_id") == request:
                    return True
        return False

    def _said(self) -> str:
        with contextlib.suppress(OSError):
            lines = (self._folder / "child.log").read_text(errors="replace").splitlines()
            return "\n".join(lines[-10:])
        return ""

    def _collect(self, request: str, collected: _Collected, deadline: float) -> bool:
        """Take messages until the kernel is idle again (True) or time is up (False)."""
        while (left := deadline - time.monotonic()) > 0:
            try:
                message = self._client.get_iopub_msg(timeout=min(left, _POLL_SECONDS))
            except queue.Empty:
                if not self._alive():
                    raise SandboxError(
                        "the kernel died while it ran the code (killed, or out of memory)"
                    ) from None
                continue
            if message["parent_header"].get("msg_id") != request:
                continue
            if message["msg_type"] == "status":
                if message["content"]["execution_state"] == "idle":
                    return True
            else:
                collected.add(message["msg_type"], message["content"])
        return False


class _Collected:
    def __init__(self) -> None:
        self.streams: dict[str, list[str]] = {"stdout": [], "stderr": []}
        self.results: list[Mapping[str, Any]] = []
        self.error: str | None = None
        self.traceback = ""
        self.timed_out = False

    def add(self, kind: str, content: Mapping[str, Any]) -> None:
        if kind == "stream":
            self.streams.setdefault(content["name"], []).append(content["text"])
        elif kind in ("execute_result", "display_data"):
            self.results.append(content["data"])
        elif kind == "error":
            self.error = f"{content['ename']}: {content['evalue']}"
            self.traceback = plain("\n".join(content["traceback"]))

    def execution(self, seconds: float) -> Execution:
        return Execution(
            stdout="".join(self.streams["stdout"]),
            stderr="".join(self.streams["stderr"]),
            results=tuple(self.results),
            error=self.error,
            traceback=self.traceback,
            timed_out=self.timed_out,
            seconds=seconds,
        )


def _short_folder() -> str:
    """Where temporary folders go; the names of Unix sockets may have a hundred characters only."""
    usual = tempfile.gettempdir()
    return usual if len(usual) <= _LONGEST_FOLDER else "/tmp"  # noqa: S108 - mkdtemp makes it safe


def _key() -> bytes:
    return secrets.token_hex(16).encode()
