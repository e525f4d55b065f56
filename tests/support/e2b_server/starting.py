"""The start and the ready command of a template, as E2B runs them at the end of a build."""

from __future__ import annotations

import contextlib
import queue
import re
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

READY_SECONDS = 600.0
_COMMAND_SECONDS = 3600
_INTERVAL_SECONDS = 2.0


class StepError(Exception):
    """A step failed; the text is the reason."""


class _StartError(StepError):
    """The start command failed, which also cancels the ready command."""


def ready_or_default(start: str, ready: str) -> str:
    """Return the ready command, or what E2B waits for without one."""
    return ready or ("sleep 20" if start else "sleep 0")


def plain_failure(command: str) -> str:
    """Return how a command ends that does nothing but fail, or nothing."""
    if command.strip() == "false":
        return "exit status 1"
    exited = re.fullmatch(r"exit\s+(\d+)", command.strip())
    status = int(exited[1]) % 256 if exited else 0
    return f"exit status {status}" if status else ""


def duration(seconds: float) -> str:
    """Return a duration as Go prints it."""
    minutes, rest = divmod(round(seconds, 3), 60)
    return f"{minutes:.0f}m{rest:g}s" if minutes else f"{rest:g}s"


def model_start(start: str, ready: str, seconds: float, tell: Any) -> None:
    """Tell and raise what `Start` does, `seconds` after the commands were begun."""
    if start:
        tell(f"Running start command: {start}")
    ready = ready_or_default(start, ready)
    tell(f"Waiting for template to be ready: {ready}")
    time.sleep(seconds)
    if why := plain_failure(start):
        tell("Template is ready")
        raise _StartError(f"start command failed: error running start command: {why}")
    if why := plain_failure(ready):
        tell(f"Template is not ready: {why}", "debug")
        late = f"ready command timed out after {duration(READY_SECONDS)}"
        raise StepError(f"ready command failed: {late}")
    tell("Template is ready")


class Start:
    """One start of a template.

    `run` carries out the start or the ready command (its first argument says which), and returns
    why it failed, or nothing.
    """

    def __init__(
        self, run: Callable[[str, str], str], tell: Any, *, ready_seconds: float = READY_SECONDS
    ) -> None:
        self._run, self._tell, self._ready_seconds = run, tell, ready_seconds
        self._outcomes: queue.Queue[tuple[str, str | Exception]] = queue.Queue()

    def wait(self, start: str, ready: str) -> None:
        """Run both until the template is ready. Raise `StepError` if it never is, or if the start
        command fails before."""
        begun = time.monotonic()
        if start:
            self._tell(f"Running start command: {start}")
            self._launch("start", start)
        ready = ready_or_default(start, ready)
        self._tell(f"Waiting for template to be ready: {ready}")
        try:
            while why := self._ready(ready, begun):
                self._tell(f"Template is not ready: {why}", "debug")
                with contextlib.suppress(queue.Empty):
                    self._begun(self._outcomes.get(timeout=_INTERVAL_SECONDS)[1])
        except _StartError:
            # E2B takes a cancelled ready command for one that succeeded.
            self._tell("Template is ready")
            raise
        self._tell("Template is ready")
        with contextlib.suppress(queue.Empty):
            self._begun(self._outcomes.get_nowait()[1])

    def _launch(self, kind: str, command: str) -> None:
        def run() -> None:
            try:
                self._outcomes.put((kind, self._run(kind, command)))
            except Exception as error:  # noqa: BLE001 - raised in the build
                self._outcomes.put((kind, error))

        threading.Thread(target=run, daemon=True).start()

    def _ready(self, command: str, begun: float) -> str:
        """Return why the ready command failed."""
        self._launch("ready", command)
        while True:
            try:
                left = begun + self._ready_seconds - time.monotonic()
                kind, why = self._outcomes.get(timeout=max(left, 0.0))
            except queue.Empty:
                took = duration(time.monotonic() - begun)
                late = f"ready command timed out after {took}"
                raise StepError(f"ready command failed: {late}") from None
            if kind == "start":
                self._begun(why)
            elif isinstance(why, Exception):
                raise why
            else:
                return why

    @staticmethod
    def _begun(why: str | Exception) -> None:
        """Raise why the start command failed, if it did."""
        if isinstance(why, Exception):
            raise why
        if why:
            raise _StartError(f"start command failed: error running start command: {why}")


class LateServiceError(StepError):
    """The code service gave up on its first kernel, which says nothing about the template: other
    tests take their share of the machine."""


class ContainerCommands:
    """The start and the ready command in a container, with the account, folder and variables of the
    template that has them."""

    def __init__(self, container: Any, layer: Any, tell: Any) -> None:
        from tests.support import engine

        _, env, user, workdir = layer
        self._machine, self._tell = engine.Machine(container, env | engine.WITHOUT_ENVD), tell
        self._machine.user, self._machine.workdir_set = user, workdir
        # A start command that goes on tells what it prints only through files.
        place = f"/tmp/start-{uuid.uuid4().hex}"
        self._files = {"stdout": f"{place}.out", "stderr": f"{place}.err"}
        self._told = {"stdout": 0, "stderr": 0}
        self._lock = threading.Lock()

    def run(self, kind: str, text: str) -> str:
        """Run a command to its end, tell what was printed, and return why it failed."""
        if kind == "start":
            text = f"exec >{self._files['stdout']} 2>{self._files['stderr']}\n{text}"
        code, *outputs = self._machine.command(
            text,
            user=self._machine.user,
            workdir=self._machine.workdir,
            env=self._machine.env,
            seconds=_COMMAND_SECONDS,
        )
        late = self._tell_start(whole=kind == "start")
        for name, output in zip(("stdout", "stderr"), outputs, strict=True):
            self._tell_lines(kind, name, output.split("\n"), "debug")
        if code and late:
            raise LateServiceError("ready command failed: no service")
        return f"exit status {code}" if code else ""

    def _tell_start(self, *, whole: bool) -> bool:
        """Tell what the start command has printed since, without a line that may go on unless it is
        `whole`; return whether its service gave up."""
        late, end = False, None if whole else -1
        with self._lock:
            for name, file in self._files.items():
                printed = self._machine.printed(f"cat {file} 2>/dev/null || true").split("\n")
                self._tell_lines("start", name, printed[self._told[name] : end], "info")
                self._told[name] = len(printed[:end])
                late = late or "startup failed" in "\n".join(printed)
        return late

    def _tell_lines(self, kind: str, name: str, lines: list[str], level: str) -> None:
        for line in filter(None, map(str.strip, lines)):
            self._tell(f"[{kind}] [{name}]: {line}", level)
