"""Start the processes of kernels: from scratch, or forked from a zygote, a warm process.

Either way a guard outside this process ends a kernel, and all that it has started, on request or
when this process is gone.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path

from builder.errors import SandboxError
from builder.sandbox.execution import WARM_SECONDS
from builder.system import guard, processes
from builder.system.scratch import Scratch
from builder.targets.local import kernel_host
from builder.targets.local.home import copy_home
from builder.targets.local.place import held, sandbox_variables

_CLOSE_SECONDS = 10.0
_ANSWER_SECONDS = 30.0
_LONGEST_FOLDER = 54
_END_SECONDS = 1.0
_POLL_SECONDS = 0.005


class CannotForkError(SandboxError):
    """The zygote cannot be forked after its imports."""


class _Guarded:
    """A process under its own guard, which keeps its environment from being removed.

    All but the constructor may be called from any thread.
    """

    def __init__(
        self,
        environment: Path,
        arguments: Sequence[str],
        *,
        folder: Path,
        variables: Mapping[str, str],
    ) -> None:
        """`folder` holds its working directory, `home`."""
        self._lock = threading.Lock()
        self._status: int | None = None
        self._held = contextlib.ExitStack()
        with held(environment) as inherited:
            self._guard: subprocess.Popen[bytes] = self._held.enter_context(
                processes.started(
                    [
                        os.path.join(variables["VIRTUAL_ENV"], "bin", "python"),
                        *(kernel_host.__path__[0], *arguments),
                    ],
                    folder=folder,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    cwd=folder / "home",
                    env=dict(variables),
                    pass_fds=inherited,
                )
            )

    def interrupt(self) -> None:
        """Send SIGINT to it and what it runs."""
        with contextlib.suppress(OSError, ValueError):
            if self._guard.stdin:
                self._guard.stdin.write(b"interrupt\n")
                self._guard.stdin.flush()

    def gone(self) -> bool:
        """Return whether it has ended."""
        # The guard writes the exit code and closes its output when the kernel is gone.
        stdout = self._guard.stdout
        return self._guard.poll() is not None or not stdout or _readable(stdout.fileno())

    def status(self) -> int | None:
        """Return its exit status once it is gone, negative for a signal; None if unknown."""
        with self._lock, contextlib.suppress(OSError, ValueError):
            if self._status is None and self._guard.stdout:
                self._status = int(self._guard.stdout.readline())
        return self._status

    def was_killed(self) -> bool:
        """Return whether the process, which is gone, was ended by a signal, or with its guard."""
        status = self.status()
        return status is None or status < 0

    def abort(self) -> None:
        """Kill it; return before it is dead."""
        self._guard.terminate()

    def end(self) -> None:
        """Kill it and all that it has started, and wait for that."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            if self._guard.stdin:
                self._guard.stdin.close()
                self._guard.wait(timeout=_CLOSE_SECONDS)
        self._held.close()


class _Forked:
    """A kernel forked by a zygote, with the methods of `_Guarded`; it lives as long as its
    connection."""

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self._connection, self.pid = connection, pid

    def interrupt(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.sendall(b"interrupt\n")

    def gone(self) -> bool:
        return self._connection.fileno() < 0 or _readable(self._connection.fileno())

    def status(self) -> int | None:
        with contextlib.suppress(OSError, ValueError):
            return int(self._connection.recv(16))
        return None

    def abort(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)

    def end(self) -> None:
        self.abort()
        with contextlib.suppress(OSError):
            # Its keeper closes the connection last, when all has ended and the folder is gone.
            self._connection.settimeout(_CLOSE_SECONDS)
            while self._connection.recv(1024):
                pass
        self._connection.close()


KernelProcess = _Guarded | _Forked


class Zygote:
    """A process that has imported the modules of `warm`, and forks kernels."""

    def __init__(self, environment: Path, *, warm: Sequence[str], env: Mapping[str, str]) -> None:
        self.environment = environment
        self._users, self._retired = 0, False
        self._scratch = Scratch(short_folder())
        self.folder = self._scratch.path
        self._warm = self._refuses = False
        home = self.folder / "home"
        try:
            copy_home(environment, home)
            variables = sandbox_variables(
                env, path=environment, home=Path(kernel_host.STABLE_HOME)
            ) | {"SANDBOX_HOME": str(home), "IPYTHONDIR": str(self.folder / "ipython")}
            self._process = _Guarded(
                environment,
                ["zygote", str(self.folder), guard.__file__, *warm],
                folder=self.folder,
                variables=variables,
            )
        except BaseException:
            self._scratch.remove()
            raise

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
        return self._warm or (not self.alive() and self._process.was_killed())

    def fork(self, folder: Path, variables: Mapping[str, str]) -> _Forked:
        """Fork a kernel, once the imports are done. Raises `SandboxError`."""
        self._wait_until_warm()
        line = socket.socket(socket.AF_UNIX)
        _lines.add(line)
        try:
            line.settimeout(_ANSWER_SECONDS)
            line.connect(str(self.folder / "zygote"))
            request = {
                "connection": str(folder / "connection.json"),
                "folder": str(folder),
                "home": str(folder / "home"),
                "variables": dict(variables),
            }
            line.sendall(json.dumps(request).encode() + b"\n")
            answer = b""
            while b"\n" not in answer:
                part = line.recv(64)
                if not part:
                    raise SandboxError(f"the kernel could not be forked:\n{self._log()}")
                answer += part
            line.settimeout(None)
            pid = int(answer.splitlines()[0])
            if pid < 0:
                raise OSError(-pid, os.strerror(-pid))
            return _Forked(line, pid)
        except OSError as error:
            line.close()
            raise SandboxError(f"the kernel could not be forked: {error}") from error
        except BaseException:
            line.close()
            raise

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
        self._process.end()
        self._scratch.remove()

    def _wait_until_warm(self) -> None:
        deadline = time.monotonic() + WARM_SECONDS
        while not (self.folder / "zygote").exists():
            if not self.alive():
                if kernel_host.HAS_THREADS in self._log():
                    raise CannotForkError(self._log().splitlines()[-1])
                if self._process.was_killed():
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

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as line:
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
    environment: Path, *, digest: str, warm: Sequence[str], env: Mapping[str, str]
) -> Zygote:
    """Return this process's zygote for these modules and variables, a new one if it has ended or
    the environment of `digest` has moved. The caller releases it."""
    # By process, since a process forked from one with zygotes has none itself.
    key = (os.getpid(), digest, tuple(warm), tuple(sorted(env.items())))
    replaced = None
    with _lock:
        zygote = _zygotes.get(key)
        if zygote is None or not zygote.alive() or zygote.environment != environment:
            new = Zygote(environment, warm=warm, env=env)
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


def launch(
    environment: Path, folder: Path, variables: Mapping[str, str], zygote: Zygote | None
) -> KernelProcess:
    """Start a kernel whose `connection.json` and `home` are in `folder`. Raises `SandboxError` and
    `OSError`."""
    if zygote:
        return zygote.fork(folder, variables)
    arguments = ["kernel", str(folder / "connection.json")]
    return _Guarded(environment, arguments, folder=folder, variables=variables)


def last_lines(log: Path) -> str:
    """Return the last lines of a log, empty if there is none."""
    with contextlib.suppress(OSError):
        return "\n".join(log.read_text(errors="replace").splitlines()[-10:])
    return ""


def short_folder() -> str:
    """Return where temporary folders go: a Unix socket's path has at most about 100 characters."""
    usual = tempfile.gettempdir()
    return usual if len(usual) <= _LONGEST_FOLDER else "/tmp"  # noqa: S108 - mkdtemp makes it safe


def _readable(descriptor: int) -> bool:
    poll = select.poll()  # unlike `select`, it accepts any descriptor
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
