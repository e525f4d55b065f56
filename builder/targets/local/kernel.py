"""A local sandbox: a Jupyter kernel in a fresh folder that is its home and working directory.

A guard process ends the kernel and removes the folder when this process closes the sandbox or dies.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from builder.errors import InterpreterDiedError, SandboxError, SandboxGoneError, from_os_error
from builder.sandbox.execution import (
    WARM_SECONDS,
    Execution,
    Output,
    seconds_in_words,
    warm_up_code,
)
from builder.system.limits import memory_kills, room
from builder.system.scratch import short_folder
from builder.targets.local.client import add_error
from builder.targets.local.confine.confinement import Confinement
from builder.targets.local.confine.limits import OUTPUT_BYTES, OUTPUT_WORDS
from builder.targets.local.confine.notes import notes
from builder.targets.local.confine.refusals import Refusal
from builder.targets.local.home import FETCHED
from builder.targets.local.kernel_host.reseed import FAILS
from builder.targets.local.launch import KernelProcess, Zygote, last_lines
from builder.targets.local.prepared import PreparedSandbox

_START_SECONDS = 120.0
_INTERRUPT_SECONDS = 5.0
_INTERRUPTS = 2
_LOOK_SECONDS = 0.5
# Less than a kernel needs for its own files.
_FULL_BYTES = 64 << 10


class KernelSandbox:
    """A started kernel. Use it from one thread at a time, but for `abort`; `close` it when done."""

    def __init__(
        self,
        environment: Path,
        *,
        warm: Sequence[str],
        env: Mapping[str, str],
        zygote: Zygote | None = None,
        confined: Confinement | None = None,
        given_up: threading.Event | None = None,
    ) -> None:
        """Start a kernel of `environment` and import the modules of `warm` in it.

        With a `zygote`, fork it from that one, which has its imports, and is released when the
        sandbox is closed. It is `confined`, or runs without walls. Raises `SandboxError`, also when
        `given_up` is set meanwhile; then nothing is left behind.
        """
        self._since = time.perf_counter()
        self._given_up = given_up or threading.Event()
        self._owner = os.getpid()
        self._process: KernelProcess | None = None
        self.confined, self.fetched = confined, environment / FETCHED
        self._refused: Counter[Refusal] = Counter()
        self._held = contextlib.ExitStack()
        self._started, self._memory_kills = False, memory_kills()
        if zygote:
            self._held.callback(zygote.release)
        self._spare = zygote.spare if zygote else None
        # Processes get copies of some variables of this one.
        self._kind = (confined, dict(os.environ))
        self._prepare = functools.partial(
            PreparedSandbox, environment, env=env, zygote=zygote, confined=confined
        )
        try:
            prepared = self._spare.take(self._kind) if self._spare else None
            if prepared is None or not self._began(prepared):
                self._begin(self._prepare())
            self._warm_up(warm)
        except BaseException as error:
            reason = _start_error(error)
            self.close()
            if reason:
                raise reason from error
            raise

    def _began(self, prepared: PreparedSandbox) -> bool:
        """Begin with a sandbox that has waited; return whether it still works."""
        try:
            self._begin(prepared)
        except SandboxError:
            if self._given_up.is_set():
                raise
            prepared.close()
            return False
        return True

    def _begin(self, prepared: PreparedSandbox) -> None:
        self._prepared = prepared
        self._held.callback(prepared.close)
        self.home, self._client = prepared.home, prepared.client
        self._client.check_alive = self._check_alive
        self._process = prepared.start()
        if self._spare:
            self._spare.make(self._kind, functools.partial(_in_room, self._prepare))
        self.timings = {"created": round(time.perf_counter() - self._since, 6)}
        self._wait_until_ready()
        self.timings["ready"] = round(time.perf_counter() - self._since, 6)

    def _wait_until_ready(self) -> None:
        try:
            ready = self._client.wait_until_ready(time.monotonic() + _START_SECONDS)
        except InterpreterDiedError as error:
            log = last_lines(self._prepared.log)
            if FAILS in log:
                reason = log[log.index(FAILS) :]
                raise SandboxError(reason, hint="correct `warmup.reseed`") from error
            why = f"the kernel did not start: {error.message}"
            raise SandboxError(f"{why}\n{log}" if log else why) from error
        if not ready:
            raise SandboxError(f"the kernel was not ready within {_START_SECONDS:.0f} seconds")
        self._started = True

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
        """Run code with `variables` in its environment, and keep `limit` characters of its output.

        After `timeout` seconds it is interrupted; a kernel that does not stop then is killed, and
        the sandbox closed. Raises `SandboxError` when the kernel is gone.
        """
        if self._process is None or self._process.gone():
            raise SandboxGoneError("the sandbox is closed, or its kernel was killed")
        start, output = time.monotonic(), Output(limit)
        try:
            with self._client.into(output):
                request = self._client.execute(
                    code, silent=silent, variables=variables, limit=limit
                )
                return self._with_notes(self._outcome(request, output, start, timeout))
        except InterpreterDiedError as error:
            error.seen = output.execution(time.monotonic() - start, lost=True)
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise SandboxError(f"the kernel's answer cannot be read: {error}") from error

    def _with_notes(self, execution: Execution) -> Execution:
        """Add notes about the limits that the code has met."""
        if self.confined is None:
            return execution
        refused = self._prepared.refused()
        new, self._refused = refused - self._refused, refused
        met = notes(execution, self.confined.limits, self.confined.network, new)
        return replace(execution, notes=met)

    def _collect(self, request: str, output: Output, end: float) -> str:
        """Collect the output of code; return "ended", "late" if time is up, or "too much" if it has
        written more than it may."""
        while not self._client.collect(request, output, min(end, time.monotonic() + _LOOK_SECONDS)):
            if self.confined and self._client.written() > OUTPUT_BYTES:
                return "too much"
            if time.monotonic() >= end:
                return "late"
        return "ended"

    def _outcome(self, request: str, output: Output, start: float, timeout: float) -> Execution:
        end = self._collect(request, output, start + timeout)
        if end != "ended" and not self._interrupted(request, output):
            self.close()
            return _cut_off(output, end, time.monotonic() - start, lost=True)
        reply = self._client.reply(request, _INTERRUPT_SECONDS)
        if reply is None:
            self.close()
            raise SandboxError(
                "the kernel did not report how the code ended: the code has broken it, and may have"
                " run in part, or not at all",
                hint="the next execution uses another sandbox; the session's state is lost",
            )
        seconds = time.monotonic() - start
        if reply.get("status") == "error" and not output.failed_already:
            add_error(output, reply)
        return _cut_off(output, end, seconds)

    def _interrupted(self, request: str, output: Output) -> bool:
        """Interrupt code, more than once if need be; return whether that has ended it."""
        for number in range(_INTERRUPTS):
            # The kernel takes the signal for this request only.
            with contextlib.suppress(OSError):
                file = self._prepared.read / "new-interrupt"
                file.write_text(f"{request} {number}", encoding="ascii")
                file.chmod(0o644)  # the kernel may be another user's
                file.replace(self._prepared.read / "interrupt")
            if self._process:
                self._process.interrupt()
            deadline = time.monotonic() + _INTERRUPT_SECONDS / _INTERRUPTS
            if self._client.collect(request, output, deadline):
                return True
        return False

    def alive(self) -> bool:
        """Return whether the kernel can run code."""
        if self._given_up.is_set():
            self.abort()
        return self._process is not None and not self._process.gone()

    def _check_alive(self) -> None:
        if not self.alive():
            status = self._process.status() if self._process else None
            words = _end_in_words(status, self._memory_kills, started=self._started)
            died = InterpreterDiedError(self._breach() or words)
            died.status = status
            raise died

    def _breach(self) -> str | None:
        """Return the message about the limit that ended the sandbox."""
        if self.confined and self._process:
            return self.confined.limits.breached(self._process.breach())
        return None

    def abort(self) -> None:
        """Kill the kernel, from any thread: a `run` under way ends with `SandboxError`."""
        if self._process:
            self._process.abort()

    def close(self) -> None:
        """End the kernel and all it has started, and remove its folder.

        Closing twice is fine; closing in a forked process does nothing.
        """
        if os.getpid() == self._owner:
            self._held.close()


def _in_room(prepare: Callable[[], PreparedSandbox]) -> PreparedSandbox:
    with room():
        return prepare()


def _cut_off(output: Output, end: str, seconds: float, *, lost: bool = False) -> Execution:
    """Return the outcome of code for which `_collect` has returned `end`."""
    if end == "too much":  # instead of the interrupt that ended it
        output.failed("OutputLimitError", OUTPUT_WORDS, "")
    return output.execution(seconds, timed_out=end == "late", lost=lost)


def _start_error(error: BaseException) -> Exception | None:
    """Return the error to raise for an error while a sandbox was started."""
    folder = short_folder()
    if isinstance(error, Exception) and shutil.disk_usage(folder).free < _FULL_BYTES:
        error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), folder)
    if isinstance(error, shutil.Error):
        return SandboxError(f"the sandbox's home cannot be made: {error}")
    if isinstance(error, OSError):
        return from_os_error(error, "starting the sandbox")
    return None


def _end_in_words(status: int | None, memory_kills_before: int | None, *, started: bool) -> str:
    when = "while it ran the code" if started else "while it started"
    if status is None:
        return f"the interpreter ended {when}, with the process that watches it"
    if status >= 0:
        subject = "the code ended its interpreter" if started else "it ended"
        return f"{subject} with exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    cause = _cause_of_kill(memory_kills_before) if -status == signal.SIGKILL else ""
    return f"the interpreter was ended by {name} {when}{cause}"


def _cause_of_kill(memory_kills_before: int | None) -> str:
    if memory_kills_before is None:
        return ", as when memory runs out"
    if memory_kills() != memory_kills_before:
        return ", as memory ran out on this machine"
    return "; memory did not run out, so the code or another program killed it"
