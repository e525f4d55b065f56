"""A local sandbox: a Jupyter kernel in a fresh folder that is its home and working directory.

The only owner of jupyter_client. A guard process ends the kernel and removes the folder when this
process closes the sandbox, or dies.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import queue
import secrets
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import zmq
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.connect import write_connection_file
from jupyter_core.utils import ensure_event_loop

from builder.errors import InterpreterDiedError, SandboxError, SandboxGoneError, from_os_error
from builder.sandbox.execution import (
    WARM_SECONDS,
    Cut,
    Execution,
    Output,
    seconds_in_words,
    warm_up_code,
)
from builder.system.scratch import Scratch
from builder.targets.local.kernel_host.reseed import FAILS
from builder.targets.local.launch import Launched, Zygote, last_lines, launch, short_folder
from builder.targets.local.layer import make_layer
from builder.targets.local.place import sandbox_variables
from builder.targets.local.streams import Streams

_START_SECONDS = 120.0
_INTERRUPT_SECONDS = 5.0
_INTERRUPTS = 2
_POLL_SECONDS = 0.2
# Less than what a kernel needs for its own files.
_FULL_BYTES = 64 << 10
# How many messages may wait in this process, each of at most what is kept of a result.
_WAITING_MESSAGES = 2


class KernelSandbox:
    """A started kernel. Use it from one thread at a time, but for `abort`; `close` it when done."""

    def __init__(
        self,
        environment: Path,
        *,
        warm: Sequence[str],
        env: Mapping[str, str],
        zygote: Zygote | None = None,
        given_up: threading.Event | None = None,
    ) -> None:
        """Start a kernel of `environment`, import the modules of `warm` in it, wait until it is
        ready. With a `zygote`, it is forked from that, which is released at its end, and has what
        that has imported. Raises `SandboxError`, also when it is `given_up` meanwhile, and then
        leaves nothing behind."""
        self._given_up = given_up or threading.Event()
        start = time.perf_counter()
        self._launched: Launched | None = None
        self._streams: Streams | None = None
        self._scratch: Scratch | None = None
        self._zygote = zygote
        self._owner = os.getpid()
        try:
            self._client = BlockingKernelClient(context=_context(os.getpid()))
            if zygote:  # whose own folder goes with all of its sandboxes
                self._folder = Path(tempfile.mkdtemp(prefix="template-", dir=zygote.folder))
            else:
                self._scratch = Scratch(short_folder())
                self._folder = self._scratch.path
        except BaseException as error:
            self._release()
            if isinstance(error, OSError):
                raise from_os_error(error, "making the sandbox's folder") from error
            raise
        self.home = self._folder / "home"
        try:
            self._start(environment, env, zygote)
            self.timings = {"created": round(time.perf_counter() - start, 6)}
            self._wait_until_ready()
            self.timings["ready"] = round(time.perf_counter() - start, 6)
            self._warm_up(warm)
        except BaseException as error:
            full = isinstance(error, Exception) and _is_full(self._folder)
            self.close()
            if full:
                no_space = OSError(
                    errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._folder.parent)
                )
                raise from_os_error(no_space, "starting the sandbox") from error
            if isinstance(error, shutil.Error):
                raise SandboxError(f"the sandbox's home cannot be made: {error}") from error
            if isinstance(error, OSError):
                raise from_os_error(error, "starting the sandbox") from error
            raise

    def _start(self, environment: Path, env: Mapping[str, str], zygote: Zygote | None) -> None:
        shutil.copytree(environment / "home", self.home, symlinks=True)
        connection, key = self._folder / "connection.json", secrets.token_hex(16).encode()
        write_connection_file(
            str(connection), transport="ipc", ip=str(self._folder / "socket"), key=key
        )
        self._streams = Streams(self._folder, key)
        layer = make_layer(self._folder, environment)
        variables = sandbox_variables(env, path=layer, home=self.home)
        variables["IPYTHONDIR"] = str(self._folder / "ipython")
        self._launched = launch(environment, self._folder, variables, zygote)
        self._client.load_connection_file(str(connection))
        self._client.start_channels(stdin=False)

    def _warm_up(self, warm: Sequence[str]) -> None:
        if not warm:
            return
        imported = self.run(warm_up_code(warm), timeout=WARM_SECONDS, silent=True)
        if imported.error or imported.timed_out:
            limit = f"they did not finish within {seconds_in_words(WARM_SECONDS)}"
            raise SandboxError(
                f"the warm-up imports fail in the sandbox: {imported.error or limit}",
                hint="correct `warmup.imports`",
            )

    def run(
        self,
        code: str,
        *,
        timeout: float,
        silent: bool = False,
        variables: Mapping[str, str] | None = None,
        limit: int | None = None,
    ) -> Execution:
        """Run code, with `variables` in its environment; of its output `limit` characters are kept.

        After `timeout` seconds it is interrupted; a kernel that does not obey is killed, and with
        it the sandbox. Raises `SandboxError` when the kernel is gone."""
        if self._launched is None or self._launched.gone() or self._streams is None:
            raise SandboxGoneError("the sandbox is closed, or its kernel was killed")
        content = {"code": code, "silent": silent, "store_history": not silent}
        content |= {"user_expressions": {}, "allow_stdin": False, "stop_on_error": False}
        metadata = {"variables": dict(variables or {}), "limit": limit}
        message = self._client.session.msg("execute_request", content, metadata=metadata)
        start, output = time.monotonic(), Output(limit)
        try:
            with self._streams.into(output):
                return self._run(message, output, start, timeout)
        except InterpreterDiedError as error:
            error.seen = output.execution(time.monotonic() - start, lost=True)
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise SandboxError(f"the kernel's answer cannot be read: {error}") from error

    def _run(
        self, message: dict[str, Any], output: Output, start: float, timeout: float
    ) -> Execution:
        request = message["header"]["msg_id"]
        self._client.shell_channel.send(message)
        timed_out = not self._collect(request, output, start + timeout)
        if timed_out and not self._interrupted(request, output):
            self.close()
            return output.execution(time.monotonic() - start, timed_out=True, lost=True)
        reply = self._reply(request, _INTERRUPT_SECONDS)
        if reply is None:
            self.close()
            raise SandboxError(
                "the kernel did not say how the code ended: it has put the kernel out of order,"
                " and may have run in part, or not at all",
                hint="the next execution has another sandbox; what was defined is lost",
            )
        seconds = time.monotonic() - start
        if reply.get("status") == "error" and not output.failed_already:
            _failed(output, reply)
        return output.execution(seconds, timed_out=timed_out)

    def _interrupted(self, request: str, output: Output) -> bool:
        """Interrupt code, several times if need be; return whether that has ended it."""
        for _ in range(_INTERRUPTS):
            # The kernel takes the signal for this request only.
            with contextlib.suppress(OSError):
                (self._folder / "interrupt").write_text(request, encoding="ascii")
            if self._launched:
                self._launched.interrupt()
            if self._collect(request, output, time.monotonic() + _INTERRUPT_SECONDS / _INTERRUPTS):
                return True
        return False

    def alive(self) -> bool:
        """Whether the kernel can still be asked to run code."""
        if self._given_up.is_set():
            self.abort()
        return self._launched is not None and not self._launched.gone()

    def abort(self) -> None:
        """Kill the kernel, from any thread: what `run` is waiting for ends with `SandboxError`."""
        if self._launched:
            self._launched.abort()

    def close(self) -> None:
        """End the kernel and all it started, remove its folder. Closing twice is fine, and so is
        closing in a forked process, which ends nothing."""
        if os.getpid() != self._owner:
            return
        if self._streams:
            self._streams.close()
        # What is left to the garbage collector keeps its threads and descriptors until then.
        with contextlib.suppress(Exception):
            self._client.stop_channels()
        # The client has made it for this thread, and makes another one where it needs it.
        loop = ensure_event_loop()
        if not loop.is_running():
            loop.close()
        if self._launched:
            self._launched.end()
            self._launched = None
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._scratch:
            self._scratch.remove()
        self._release()

    def _release(self) -> None:
        zygote, self._zygote = self._zygote, None
        if zygote:
            zygote.release()

    def _wait_until_ready(self) -> None:
        """Ready is a kernel that answers, and whose output is heard: a subscription takes a moment
        to arrive, and what is published before is lost."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            request = self._client.kernel_info()
            while self._reply(request, _POLL_SECONDS) is None:
                if not self.alive():
                    said = last_lines(self._folder / "child.log")
                    if FAILS in said:
                        reason = said[said.index(FAILS) :]
                        raise SandboxError(reason, hint="correct `warmup.reseed`")
                    raise SandboxError(f"the kernel did not start:\n{said}")
                if time.monotonic() > deadline:
                    break
            if self._collect(request, Output(), time.monotonic() + _POLL_SECONDS):
                return
        raise SandboxError(f"the kernel was not ready within {_START_SECONDS:.0f} seconds")

    def _reply(self, request: str, timeout: float) -> dict[str, Any] | None:
        """Take replies until the one to `request`; None when none came for `timeout` seconds."""
        with contextlib.suppress(queue.Empty):
            while True:
                answer = self._client.get_shell_msg(timeout=timeout)
                if answer["parent_header"].get("msg_id") == request:
                    content: dict[str, Any] = answer["content"]
                    return content
        return None

    def _collect(self, request: str, output: Output, deadline: float) -> bool:
        """Take messages until the kernel is idle again (True) or time is up (False)."""
        while (left := deadline - time.monotonic()) > 0:
            try:
                message = self._client.get_iopub_msg(timeout=min(left, _POLL_SECONDS))
            except queue.Empty:
                if not self.alive():
                    self._end_streams()
                    status = self._launched.status() if self._launched else None
                    died = InterpreterDiedError(_end_in_words(status))
                    died.status = status
                    raise died from None
                continue
            if message["parent_header"].get("msg_id") != request:
                continue
            if message["msg_type"] == "status":
                if message["content"]["execution_state"] == "idle":
                    self._end_streams()
                    return True
            elif self._streams:
                with self._streams.lock:
                    _add(output, message["msg_type"], message["content"])
        return False

    def _end_streams(self) -> None:
        if self._streams:
            self._streams.end()


def _is_full(folder: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):  # which goes with a kernel that has died
        return shutil.disk_usage(folder).free < _FULL_BYTES
    return False


def _end_in_words(status: int | None) -> str:
    if status is None:
        return "the interpreter ended while it ran the code"
    if status >= 0:
        return f"the code ended its interpreter with exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    cause = ", as when memory runs out" if -status == signal.SIGKILL else ""
    return f"the interpreter was ended by {name} while it ran the code{cause}"


def _add(output: Output, kind: str, content: Mapping[str, Any]) -> None:
    if kind in ("execute_result", "display_data", "update_display_data"):
        left_out = content["left_out"]
        output.result(
            {
                key: _whole(value, left_out.get(key, 0), output)
                if isinstance(value, str)
                else value
                for key, value in content["data"].items()
            },
            main=kind == "execute_result",
            display_id=content["transient"]["display_id"],
            update=kind == "update_display_data",
        )
    elif kind == "clear_output":
        output.clear("results", content["number"], wait=content["wait"])
    elif kind == "error":
        _failed(output, content)


def _failed(output: Output, content: Mapping[str, Any]) -> None:
    traceback = "\n".join(map(str, content.get("traceback", ())))
    left_out = content.get("left_out", {})
    output.failed(
        _whole(str(content.get("ename")), 0, output),
        _whole(str(content.get("evalue")), left_out.get("evalue", 0), output),
        _whole(traceback, left_out.get("traceback", 0), output),
    )


def _whole(text: str, left_out: int, output: Output) -> str | Cut:
    """Text without halves of characters, which nobody could write anywhere; `left_out` of it are
    missing from its middle."""
    text = text.encode("utf-8", "replace").decode()
    if not left_out:
        return text
    cut = Cut(output.limit)
    cut.add(text)
    cut.leave_out(left_out)
    return cut


@functools.cache
def _context(_process: int) -> zmq.Context[Any]:
    """One for all of a process: each has a thread and descriptors of its own, and a forked process
    has no threads."""
    context = zmq.Context()
    context.setsockopt(zmq.RCVHWM, _WAITING_MESSAGES)
    return context
