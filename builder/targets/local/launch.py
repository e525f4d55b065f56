"""Start the processes of kernels: from scratch, or forked from a zygote, a warm process.

Either way a guard outside this process ends a kernel, and all that it has started, on request or
when this process is gone.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import socket
import stat
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.errors import SandboxError
from builder.sandbox.execution import WARM_SECONDS
from builder.system import guard, processes
from builder.system.scratch import Scratch, short_folder
from builder.targets.local import kernel_host
from builder.targets.local.confine import confinement
from builder.targets.local.confine.walls import ENVIRONMENT, READ, View
from builder.targets.local.guarded import Guarded, readable
from builder.targets.local.home import copy_home
from builder.targets.local.place import confined_variables, sandbox_variables
from builder.targets.local.spare import Spare

if TYPE_CHECKING:
    from builder.targets.local.prepared import PreparedSandbox

_CLOSE_SECONDS = 10.0
_ANSWER_SECONDS = 30.0
_END_SECONDS = 1.0
_POLL_SECONDS = 0.005
_LOG_BYTES = 1 << 16
_NOT_FORKED = "the kernel could not be forked"


class CannotForkError(SandboxError):
    """The zygote cannot be forked after its imports."""


class Forked:
    """A kernel forked by a zygote, with the methods of `Guarded`; it lives as long as its
    connection. `prepare` it, then `start` it."""

    pid = 0
    listener: socket.socket | None = None  # takes the code's connections to hosts elsewhere
    _first: int | None = None  # behind walls, a descriptor of the process with which all end

    def __init__(self, connection: socket.socket, log: Callable[[], str]) -> None:
        """`log` returns the last lines of the zygote's log."""
        self._connection, self._log = connection, log
        self._end: tuple[int | None, str] | None = None

    def prepare(
        self, folder: Path, variables: Mapping[str, str], confined: Mapping[str, Any] | None
    ) -> None:
        """Fork the kernel, behind walls if it is `confined`; it waits. Raises `SandboxError`."""
        request = confined or {
            "connection": str(folder / READ / "connection.json"),
            "folder": str(folder),
            "home": str(folder / "home"),
            "log": str(folder / "child.log"),
        }
        try:
            self._connection.sendall(
                json.dumps({**request, "variables": dict(variables)}).encode() + b"\n"
            )
            self.pid = _pid_in(self._answer())
            self._connection.settimeout(None)
        except OSError as error:
            raise SandboxError(f"{_NOT_FORKED}: {error}") from error

    def start(self) -> None:
        """Let it run. Raises `SandboxError`."""
        try:
            self._connection.sendall(b"start\n")
        except OSError as error:
            raise SandboxError(f"{_NOT_FORKED}: {error}") from error

    def _answer(self) -> str:
        """Receive an answer, and behind walls the descriptors that come with it: of the first
        process there and, if the code may connect to any host, of a listening socket."""
        answer, passed = b"", list[int]()
        while b"\n" not in answer:
            part, descriptors, *_ = socket.recv_fds(
                self._connection, 1024, 2, socket.MSG_CMSG_CLOEXEC
            )
            passed += descriptors
            if not part:
                raise SandboxError(f"{_NOT_FORKED}:\n{self._log()}")
            answer += part
        if passed:
            self._first = passed[0]
        if len(passed) > 1:
            self.listener = socket.socket(fileno=passed[1])
        return answer.splitlines()[0].decode(errors="replace")

    def interrupt(self) -> None:
        """Send SIGINT to the kernel and its children."""
        with contextlib.suppress(OSError):
            self._connection.sendall(b"interrupt\n")

    def gone(self) -> bool:
        """Return whether it has ended."""
        return self._connection.fileno() < 0 or readable(self._connection.fileno())

    def status(self) -> int | None:
        """Return its exit status once it is gone, negative for a signal; None if unknown."""
        return self._ended()[0]

    def breach(self) -> str:
        """Return the limit that ended it, empty if none did."""
        return self._ended()[1]

    def _ended(self) -> tuple[int | None, str]:
        if self._end is None:
            self._end = None, ""
            with contextlib.suppress(OSError, ValueError):
                status, _, breach = self._connection.recv(64).decode().strip().partition(" ")
                self._end = int(status), breach
        return self._end

    def abort(self) -> None:
        """Kill it; return before it is dead."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)

    def end(self) -> None:
        """Kill the kernel and everything that it has started, and wait for their end."""
        if self._first is not None:
            # Its keeper would do this, but the code's processes can delay it by seconds.
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self._first, signal.SIGKILL)
            os.close(self._first)
            self._first = None
        self.abort()
        with contextlib.suppress(OSError):
            # Its keeper closes the connection last, when all has ended and the folder is gone.
            self._connection.settimeout(_CLOSE_SECONDS)
            while self._connection.recv(1024):
                pass
        self._connection.close()


KernelProcess = Guarded | Forked


class Zygote:
    """A process that has imported the modules of `warm`, and forks kernels."""

    _users = 0
    _retired = _warm = _refuses = False

    def __init__(
        self,
        environment: Path,
        *,
        warm: Sequence[str],
        env: Mapping[str, str],
        view: View | None = None,
        starter: bool = False,
    ) -> None:
        """With a `view`, it is behind the outer walls, and so are its kernels; there, a `starter`
        starts each kernel anew, without any module."""
        self.environment = environment
        self.starts = starter
        self.spare: Spare[PreparedSandbox] = Spare()
        self._scratch = Scratch(short_folder())
        self.folder = self._scratch.path
        try:
            command, variables = self._prepared(environment, warm, env, view)
            self._process = Guarded(environment, command, folder=self.folder, variables=variables)
        except BaseException:
            self._scratch.remove()
            raise

    def _prepared(
        self,
        environment: Path,
        warm: Sequence[str],
        env: Mapping[str, str],
        view: View | None,
        *,
        idle: str = "",
    ) -> tuple[list[str], dict[str, str]]:
        """Fill the folder; return the command of the process and its variables. It ends after
        `idle` seconds without a sandbox, if these are given."""
        home = self.folder / "home"
        task = "starter" if self.starts else "zygote"
        if view:
            copy_home(environment, home, inside=Path(ENVIRONMENT))
            confinement.prepare(view, self.folder)
            command = confinement.zygote_command(
                view, self.folder, task=task, modules=warm, idle=idle
            )
            return command, confined_variables(env, path=ENVIRONMENT)
        copy_home(environment, home)
        command = [
            *(str(environment / "bin" / "python"), kernel_host.__path__[0], task),
            *(str(self.folder), guard.__file__, "", idle, *warm),
        ]
        variables = sandbox_variables(env, path=environment, home=Path(kernel_host.STABLE_HOME))
        ipython = {"SANDBOX_HOME": str(home), "IPYTHONDIR": str(self.folder / "ipython")}
        return command, variables | ipython

    def alive(self) -> bool:
        """Return whether it can fork, or is still starting."""
        return not self._refuses and not self._process.gone()

    def died(self) -> bool:
        """Return whether it has ended for another reason than its imports; wait a moment for it."""
        deadline = time.monotonic() + _END_SECONDS
        while self._warm and self.alive():
            if time.monotonic() > deadline:
                # Its guard may be late to notice.
                self._refuses = not self._listens()
                return self._refuses
            time.sleep(_POLL_SECONDS)
        return self._warm or (not self.alive() and self._was_killed())

    def connect(self) -> Forked:
        """Have a kernel's keeper forked, once the imports are done. Raises `SandboxError`."""
        self._wait_until_warm()
        line = socket.socket(socket.AF_UNIX)
        _lines.add(line)
        try:
            line.settimeout(_ANSWER_SECONDS)
            line.connect(str(self.folder / "zygote"))
        except OSError as error:
            line.close()
            raise SandboxError(f"{_NOT_FORKED}: {error}") from error
        return Forked(line, self._log)

    def take(self) -> None:
        """Add a user; call it with the lock of all zygotes held."""
        self._users += 1

    def release(self) -> None:
        """Remove a user. The last user of a retired zygote closes it."""
        with _lock:
            self._users -= 1
            over = self._retired and self._users == 0
        if over:
            self.close()

    def retire(self) -> bool:
        """Have it end with its last user; return whether it has none and can be closed now."""
        self._retired = True
        return self._users == 0

    def close(self) -> None:
        """End it and its kernels, and remove their folders."""
        self.spare.close()
        self._process.end()
        self._scratch.remove()

    def _wait_until_warm(self) -> None:
        deadline = time.monotonic() + WARM_SECONDS
        while not (self.folder / "zygote").exists():
            if not self.alive():
                if kernel_host.HAS_THREADS in self._log():
                    raise CannotForkError(self._log().splitlines()[-1])
                if self._was_killed():
                    raise SandboxError(
                        "the process with the warm-up imports ended before it had all of them"
                        " (killed, or out of memory)"
                    )
                raise SandboxError(
                    f"the warm-up imports fail in the sandbox:\n{self._log()}",
                    hint="correct `warmup.imports`",
                )
            if time.monotonic() > deadline:
                raise SandboxError(
                    f"the warm-up imports did not finish within {WARM_SECONDS:.0f} seconds"
                )
            time.sleep(_POLL_SECONDS)
        self._warm = True

    def _was_killed(self) -> bool:
        return self._process.was_killed()

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(_END_SECONDS)
            return line.connect_ex(str(self.folder / "zygote")) == 0

    def _log(self) -> str:
        return last_lines(self.folder / "child.log")


# The connections to the keepers of kernels, which live as long as these.
_lines: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def _after_fork() -> None:
    """Keep a process forked from this one from keeping kernels alive or ending them."""
    global _lock  # noqa: PLW0603 - another thread may have held it
    _lock = threading.Lock()
    processes.let_go(line.fileno() for line in list(_lines) if line.fileno() >= 0)


os.register_at_fork(after_in_child=_after_fork)

_zygotes: dict[tuple[object, ...], Zygote] = {}
_lock = threading.Lock()


def forks() -> bool:
    """Return whether kernels can be forked here, each with its own home."""
    return sys.platform == "linux" and os.path.isdir("/proc/self/fd")


def zygote_of(
    environment: Path,
    *,
    digest: str,
    warm: Sequence[str],
    env: Mapping[str, str],
    view: View | None = None,
    kind: type[Zygote] = Zygote,
) -> Zygote:
    """Return this process's zygote for these modules and variables, a new one if it has ended or
    the environment of `digest` has moved. The caller releases it."""
    # By process, since a process forked from one with zygotes has none itself.
    key = (os.getpid(), digest, tuple(warm), tuple(sorted(env.items())), view, kind)
    replaced = None
    with _lock:
        zygote = _zygotes.get(key)
        if zygote is None or not zygote.alive() or zygote.environment != environment:
            new = kind(environment, warm=warm, env=env, view=view)
            if zygote and (not zygote.alive() or zygote.retire()):
                replaced = zygote
            zygote = _zygotes[key] = new
        zygote.take()
    if replaced:
        replaced.close()
    return zygote


@atexit.register
def _close_zygotes() -> None:
    for (process, *_), zygote in _zygotes.items():
        if process == os.getpid():
            zygote.close()


def launch(environment: Path, folder: Path, variables: Mapping[str, str]) -> Guarded:
    """Start a kernel without walls, whose `home` is in `folder`. Raises `OSError`."""
    python = os.path.join(variables["VIRTUAL_ENV"], "bin", "python")
    connection = str(folder / READ / "connection.json")
    command = [python, kernel_host.__path__[0], "kernel", connection]
    return Guarded(environment, command, folder=folder, variables=variables)


def _pid_in(answer: str) -> int:
    """Return the process ID that a zygote has answered with. Raises `OSError`, `SandboxError`."""
    if answer.startswith("failed: "):
        reason = answer.removeprefix("failed: ")
        raise SandboxError(f"the walls of the sandbox could not be made: {reason}")
    pid = int(answer)
    if pid < 0:
        raise OSError(-pid, os.strerror(-pid))
    return pid


def last_lines(log: Path) -> str:
    """Return the last lines of a log, empty if there is none."""
    with contextlib.suppress(OSError):
        # Code may have replaced it by something else.
        descriptor = os.open(log, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                file.seek(max(os.fstat(descriptor).st_size - _LOG_BYTES, 0))
                text = file.read(_LOG_BYTES).decode(errors="replace")
                return "\n".join(text.splitlines()[-10:])
    return ""
