"""Packages that the code installs: where they go, and errors when installing fails."""

import contextlib
import importlib
import io
import re
import shlex
import shutil
import site
import sys
from collections import deque
from typing import Any

_INSTALLS = re.compile(
    r"(?<![^\s/;&|(])(?:easy_install|(?:pip[\d.]*|uv|pipx|conda|mamba|micromamba)\s[^;&|\n]*?"
    r"\b(?:install|uninstall|add|remove|sync|update|upgrade))\b.*"
)
_MISSING = re.compile(r"No module named (?P<name>pip|uv)\b")
_HINT = "\nthis template does not have {name}: add it to `packages` in its spec"
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_LINES = 5


def enter(venv: str) -> None:
    """Turn this interpreter, which was started in the environment, into that of a virtual
    environment on top of it."""
    # Debian lists folders that do not exist before those that do.
    shared = next(folder for folder in site.getsitepackages() if folder in sys.path)
    own = venv + shared.removeprefix(sys.prefix)
    sys.prefix = sys.exec_prefix = venv
    sys.executable = f"{venv}/bin/python"
    site.PREFIXES[:] = [venv]
    if computed := sys.modules.get("sysconfig"):  # it used the prefix when it was loaded
        importlib.reload(computed)
    sys.path.insert(sys.path.index(shared), own)
    if spawning := sys.modules.get("multiprocessing.spawn"):
        spawning.set_executable(sys.executable)


class InstallError(RuntimeError):
    """A command that installs packages failed."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


class _Copying(io.TextIOBase):
    """Copies terminal output to a stream as text, and keeps its last lines."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._end = stream, deque[str](maxlen=200)
        self._held = ""

    def write(self, text: str) -> int:
        self._end.append(text)
        shown = self._held + text
        self._held = "\r" if shown.endswith("\r") else ""  # maybe half of a line end
        self._stream.write(shown[: len(shown) - len(self._held)].replace("\r\n", "\n"))
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def end(self) -> str:
        """Return the last lines as a terminal shows them."""
        lines = _COLOURS.sub("", "".join(self._end)).replace("\r\n", "\n").split("\n")
        shown = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in lines]
        return "\n".join([line for line in shown if line][-_LINES:])


def watch() -> None:
    """Raise an error when `%pip`, `!pip` or the like fails: IPython ignores that."""
    from IPython.core.getipython import get_ipython

    zmqshell: Any = importlib.import_module("ipykernel.zmqshell")
    run = zmqshell.system

    def system(command: str) -> int:
        command, piped = command.rstrip(), shutil.which("bash") if "|" in command else None
        installs = _INSTALLS.search(command)
        if installs and piped:  # the status of pip counts, not that of what reads its output
            command = shlex.join([piped, "-c", f"{command}\nexit ${{PIPESTATUS[0]}}"])
        copy = _Copying(sys.stdout)
        with contextlib.redirect_stdout(copy):
            status = int(run(command))
        importlib.invalidate_caches()
        missing = _MISSING.search(copy.end())
        if status and (installs or missing):
            shell: Any = get_ipython()
            shell.user_ns["_exit_code"] = status
            raise InstallError(
                f"`{installs[0] if installs else command}` failed with exit status"
                f" {status}:\n{copy.end()}"
                + (_HINT.format(name=missing["name"]) if missing else "")
            )
        return status

    zmqshell.system = system
