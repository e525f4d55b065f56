"""Zygotes that outlive their program, for the user's next programs.

The folder of a zygote is named after its content, and is in a folder that only the user can enter.
A zygote ends after some time without sandboxes. While it lives, one of its processes holds a lock
on the file `alive` beside the folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from builder.errors import SandboxError
from builder.system import guard
from builder.system.files import exclusive, is_locked, remove_tree
from builder.system.scratch import short_folder
from builder.targets.local import kernel_host
from builder.targets.local.confine.walls import View
from builder.targets.local.launch import Zygote, last_lines
from builder.targets.local.place import held
from builder.targets.local.prepared import PreparedSandbox
from builder.targets.local.spare import Spare

IDLE_SECONDS = 900.0
_FOLDER = ".zygotes"
_END_SECONDS = 1.0
_POLL_SECONDS = 0.005
_SIGNALLED = 128  # a guard's exit status is above if a signal ended its process


class KeptZygote(Zygote):
    """A zygote that other programs of the same user also use. No program closes it."""

    def __init__(
        self,
        environment: Path,
        *,
        warm: Sequence[str],
        env: Mapping[str, str],
        view: View | None = None,
    ) -> None:
        """Find it, or start it and wait for its imports. Raises `SandboxError`, `OSError`."""
        self.environment, self.starts = environment, False
        self.spare: Spare[PreparedSandbox] = Spare()
        self._guard: subprocess.Popen[bytes] | None = None  # if this program started it
        self.folder = _private_folder() / _name(environment, warm, env, view)
        self._alive = self.folder.with_suffix(".alive")
        if self.alive() and (self.folder / "zygote").exists():
            return
        with exclusive(self.folder.with_suffix(".lock")):
            if not self.alive():
                remove_tree(self.folder)
                self._start(environment, warm, env, view)
                self._wait_until_warm()

    def _start(
        self, environment: Path, warm: Sequence[str], env: Mapping[str, str], view: View | None
    ) -> None:
        self.folder.mkdir(mode=0o700)
        command, variables = self._prepared(
            environment, warm, env, view, idle=f"{IDLE_SECONDS:.3f}"
        )
        with contextlib.ExitStack() as opened:
            # The guard ends with its standard input: never, since it holds the other end itself.
            standard_input, held_open = os.pipe()
            alive = os.open(self._alive, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            for descriptor in (standard_input, held_open, alive):
                opened.callback(os.close, descriptor)
            fcntl.flock(alive, fcntl.LOCK_SH)
            inherited = opened.enter_context(held(environment))
            log = opened.enter_context(self.folder.with_suffix(".log").open("wb"))
            self._guard = process = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", guard.__file__),
                    *("-", str(self.folder), *command),
                ],
                stdin=standard_input,
                stdout=log,
                stderr=log,
                cwd=self.folder / "home",
                env=variables,
                pass_fds=(held_open, alive, *inherited),
                start_new_session=True,
            )
        # It is a child of this program, which must reap it.
        threading.Thread(target=process.wait, name="kept zygote", daemon=True).start()

    def alive(self) -> bool:
        """Return whether it can fork, or is still starting."""
        try:
            return not self._refuses and is_locked(self._alive)
        except OSError:
            return False

    def died(self) -> bool:
        """Return whether it has ended, after waiting a moment."""
        deadline = time.monotonic() + _END_SECONDS
        while self.alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def close(self) -> None:
        """Leave it to other programs."""
        self.spare.close()

    def _was_killed(self) -> bool:
        status = self._guard.wait() if self._guard else 0
        return status < 0 or status > _SIGNALLED

    def _log(self) -> str:
        return last_lines(self.folder.with_suffix(".log"))


def _private_folder() -> Path:
    """Return the folder of the user's zygotes. Raises `SandboxError` if others can write to it."""
    folder = Path(short_folder()) / f"{_FOLDER}-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise SandboxError(
            f"{folder} is not a folder that you alone can enter, so no process is kept in it",
            hint='remove it, or leave out `zygote = "keep"`',
        )
    return folder


def _name(environment: Path, warm: Sequence[str], env: Mapping[str, str], view: View | None) -> str:
    """Return a name for everything that a zygote has loaded, including this program's modules."""
    program = [path.read_bytes() for path in sorted(Path(kernel_host.__path__[0]).glob("*.py"))]
    content = (str(environment), tuple(warm), sorted(env.items()), view, program)
    return hashlib.sha256(repr(content).encode()).hexdigest()[:12]
