"""Run a process under a guard, which ends it when this process is gone."""

from __future__ import annotations

import contextlib
import select
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from builder.system import processes
from builder.targets.local.place import held

_CLOSE_SECONDS = 10.0


class Guarded:
    """A process under its own guard. It keeps its environment from being removed.

    All methods except the constructor may be called from any thread.
    """

    def __init__(
        self,
        environment: Path,
        command: Sequence[str],
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
                    command,
                    folder=folder,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    cwd=folder / "home",
                    env=dict(variables),
                    pass_fds=inherited,
                )
            )

    def interrupt(self) -> None:
        """Send SIGINT to the process and its children."""
        with contextlib.suppress(OSError, ValueError):
            if self._guard.stdin:
                self._guard.stdin.write(b"interrupt\n")
                self._guard.stdin.flush()

    def gone(self) -> bool:
        """Return whether it has ended."""
        # The guard writes the exit code and closes its output when the kernel is gone.
        stdout = self._guard.stdout
        return self._guard.poll() is not None or not stdout or readable(stdout.fileno())

    def status(self) -> int | None:
        """Return its exit status once it is gone, negative for a signal; None if unknown."""
        with self._lock, contextlib.suppress(OSError, ValueError):
            if self._status is None and self._guard.stdout:
                self._status = int(self._guard.stdout.readline())
        return self._status

    def breach(self) -> str:
        """Return which limit ended the process: always empty, without walls."""
        return ""

    def was_killed(self) -> bool:
        """Return whether the process, which has ended, was ended by a signal or with its guard."""
        status = self.status()
        return status is None or status < 0

    def abort(self) -> None:
        """Kill it; return before it is dead."""
        self._guard.terminate()

    def end(self) -> None:
        """Kill the process and everything that it has started, and wait for their end."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            if self._guard.stdin:
                self._guard.stdin.close()
                self._guard.wait(timeout=_CLOSE_SECONDS)
        self._held.close()


def readable(descriptor: int) -> bool:
    """Return whether there is something to read, or the other side is gone."""
    poll = select.poll()  # unlike `select`, it accepts any descriptor
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
