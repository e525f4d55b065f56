"""A started container in which commands run."""

from __future__ import annotations

import io
import os
import shlex
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import docker.errors

from builder.errors import PrecheckError

# Docker's library loses output that arrives with the headers of the response. So the output begins
# with a byte after a pause. If the byte is missing, the command runs again after a longer pause.
_MARKED = """sleep "$1"; shift; printf '\\0'; exec "$@" """
_PAUSES = (0.05, 0.5, 2, 5)  # seconds


class Machine:
    """A started container."""

    def __init__(self, container: Any) -> None:
        self._container = container

    def run(
        self, words: Sequence[str], *, user: str | None = None, timeout: float | None = None
    ) -> tuple[int, str, str]:
        """Run a program, and return its exit code, standard output and standard error.

        After `timeout` seconds it is killed, with exit code 137. Raise `PrecheckError` if the
        container has stopped, or the output was lost repeatedly.
        """
        if timeout is not None:
            words = ["timeout", "--signal=KILL", f"{timeout:.1f}", *words]
        for pause in _PAUSES:
            marked = ["sh", "-c", _MARKED, "sh", str(pause), *words]
            try:
                result = self._container.exec_run(marked, user=user or "", demux=True)
            except docker.errors.APIError as error:
                raise PrecheckError(f"the container stopped: {error.explanation}") from error
            out, err = ((part or b"").decode("utf-8", "replace") for part in result.output)
            if out.startswith("\0"):
                return result.exit_code, out[1:], err
        raise PrecheckError(
            f"the output of `{shlex.join(words)}` in the container was lost {len(_PAUSES)} times",
            hint="the engine or this machine is busy: try again later",
        )

    def write(self, path: str, content: bytes) -> None:
        """Write a file that everyone can read, into a folder that exists."""
        files = {path.lstrip("/"): (content, 0o644)}
        self._container.put_archive("/", packed(files).getvalue())

    def state(self) -> tuple[str, str]:
        """Return the state (`starting`, `healthy`, `unhealthy`, `running`, `exited`, `out of
        memory`), and the last output of the health check or the command."""
        self._container.reload()
        state = self._container.attrs["State"]
        if state.get("OOMKilled"):
            return "out of memory", self.logs()
        if not state["Running"]:
            return "exited", f"exit code {state['ExitCode']}\n{self.logs()}"
        health = state.get("Health")
        if not health:
            return "running", ""
        outputs = [entry["Output"].strip() for entry in health.get("Log") or []]
        return health["Status"], outputs[-1] if outputs else ""

    def logs(self) -> str:
        """Return the last lines of output of the command."""
        text: str = self._container.logs(tail=15).decode("utf-8", "replace").strip()
        return text


def packed(files: Mapping[str, tuple[bytes, int]]) -> io.BytesIO:
    """Pack path → (content, mode) into an archive for the engine."""
    archive = io.BytesIO()
    pack(files, archive)
    return archive


def pack(
    files: Mapping[str, tuple[bytes, int]], archive: IO[bytes], folder: Path | None = None
) -> None:
    """Pack the same into `archive`, with what is in `folder`, as files of root."""
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for path, (content, mode) in sorted(files.items()):
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, io.BytesIO(content))
        for path in sorted(os.listdir(folder)) if folder else ():
            tar.add(f"{folder}/{path}", arcname=path, filter=_of_root)
    archive.seek(0)


def _of_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry
