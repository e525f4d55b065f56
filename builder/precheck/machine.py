"""A started container, as a machine that commands run in."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping, Sequence
from typing import Any

import docker.errors

from builder.errors import PrecheckError


class DockerMachine:
    """A started container."""

    def __init__(self, container: Any) -> None:
        self._container = container

    def run(
        self, words: Sequence[str], *, user: str | None = None, timeout: float | None = None
    ) -> tuple[int, str, str]:
        """Run a program: exit code, standard output, standard error.

        After `timeout` seconds it is killed, and the code is 137. Raises `PrecheckError` when the
        machine is not there any more.
        """
        if timeout is not None:
            words = ["timeout", "--signal=KILL", f"{timeout:.1f}", *words]
        try:
            result = self._container.exec_run(list(words), user=user or "", demux=True)
        except docker.errors.APIError as error:
            raise PrecheckError(f"the machine ended: {error.explanation}") from error
        out, err = ((part or b"").decode("utf-8", "replace") for part in result.output)
        return result.exit_code, out, err

    def write(self, path: str, content: bytes) -> None:
        """Put a file into the machine, readable by all; its folder must exist."""
        files = {path.lstrip("/"): (content, 0o644)}
        self._container.put_archive("/", packed(files).getvalue())

    def state(self) -> tuple[str, str]:
        """What it is (`starting`, `healthy`, `unhealthy`, `running`, `exited`, `out of memory`),
        and what was said last: by the health check, or by what ran."""
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
        """The last lines that its CMD wrote."""
        text: str = self._container.logs(tail=15).decode("utf-8", "replace").strip()
        return text


def packed(files: Mapping[str, tuple[bytes, int]]) -> io.BytesIO:
    """An archive of path → (content, mode), as the engine takes it."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for path, (content, mode) in sorted(files.items()):
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, io.BytesIO(content))
    archive.seek(0)
    return archive
