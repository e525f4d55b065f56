"""Carrying a build out: its base, its steps, their cache, its log."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from e2b.api.client import models

from tests.e2b_server.state import CANCELLED, Build
from tests.e2b_server.steps import StepError, chained
from tests.e2b_server.wire import fits

if TYPE_CHECKING:
    from tests.e2b_server.server import Server


class Builder:
    """Carries builds out, each in a thread of its own."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def carry_out(self, build: Build) -> None:
        begun = time.monotonic()
        try:
            self._phases(build)
        except _CancelledError:
            self._tell(build, f"Build failed: {CANCELLED}", level="error")
        except _FailedError as error:
            self._tell(build, f"Build failed: {error}", level="error")
            with self.server.state.lock:
                if not build.canceled.is_set():
                    build.become("error", str(error), error.step)
        else:
            self._tell(build, f"Build finished, took {time.monotonic() - begun:.0f}s")
            with self.server.state.lock:
                if not build.canceled.is_set():
                    build.ended_at = time.monotonic()
                    build.become("ready")

    def _phases(self, build: Build) -> None:
        team, asked = build.team.key, build.request
        steps = asked.get("steps", [])
        force = bool(asked.get("force"))
        key = f"{asked.get('fromImage') or asked.get('fromTemplate')}\n{build.free_disk_mb}"
        self._tell(build, f"Building template {build.template_id}/{build.id}")
        with self._phase(build, "base"):
            known = self._known(team, key, force=force)
            told = f"[base] FROM {asked['fromImage']} [{key_hash(key)}]"
            self._tell(build, f"CACHED {told}" if known else told, "base")
            made = self.server.steps.base(asked["fromImage"]) if known is None else known[0]
            self._keep(team, key, made)
            user = f"[base] DEFAULT USER user [{key_hash(key)}]"
            self._tell(build, f"CACHED {user}" if known else user, "base")
        for number, step in enumerate(steps, start=1):
            with self._phase(build, str(number)):
                force = force or bool(step.get("force"))
                key = chained(key, step)
                head = f"[builder {number}/{len(steps)}] {step['type']}"
                told = f"{head} {' '.join(step.get('args', []))} [{key_hash(key)}]"
                known = self._known(team, key, force=force)
                self._tell(build, f"CACHED {told}" if known else told, str(number))
                made = self._run(build, made, step, number, len(steps)) if not known else known[0]
                if not known:
                    with self.server.state.lock:
                        self.server.state.executed.append((team, key))
                self._keep(team, key, made)
        for name, text in (
            ("resize-disk", "Resizing disk"),
            ("finalize", "Finalizing template build"),
            ("optimize", "Optimizing template"),
        ):
            with self._phase(build, name):
                self._tell(build, f"[{name}] {text} [{key_hash(key + name)}]", name)
                if name == "finalize":
                    build.machine = self.server.steps.finish(made, build)

    @contextlib.contextmanager
    def _phase(self, build: Build, name: str) -> Iterator[None]:
        """A phase, by the name that errors in it have; it ends where a test wants it to."""
        state = self.server.state
        with state.lock:
            due = state.failures.pop(0) if state.failures and state.failures[0][0] == name else None
        try:
            yield
        except StepError as error:
            raise _FailedError(str(error), name) from error
        if due:
            raise _FailedError(due[2], due[1])
        if build.canceled.is_set():
            raise _CancelledError

    def _tell(self, build: Build, message: str, step: str = "", level: str = "info") -> None:
        entry = {"timestamp": self.server.now().isoformat(), "message": message, "level": level}
        if step:
            entry["step"] = step
        fits(models.BuildLogEntry, entry)
        with self.server.state.lock:
            build.log.append(entry)

    def _known(self, team: str, key: str, *, force: bool) -> tuple[Any] | None:
        with self.server.state.lock:
            layers = self.server.state.layers
            return (layers[team, key],) if (team, key) in layers and not force else None

    def _keep(self, team: str, key: str, made: Any) -> None:
        with self.server.state.lock:
            self.server.state.layers[team, key] = made

    def _run(self, build: Build, layer: Any, step: dict[str, Any], number: int, count: int) -> Any:
        files = None
        if step["type"] == "COPY":
            files = self.server.state.files.get((build.team.key, step.get("filesHash", "")))
            if files is None:
                raise StepError("the files of the step were not uploaded")
        return self.server.steps.run(
            layer,
            step,
            files,
            lambda line: self._tell(build, f"[builder {number}/{count}] {line}", str(number)),
        )


class _CancelledError(Exception):
    """A newer build has taken this one's place."""


class _FailedError(Exception):
    """The build failed; `step` is the one that E2B names, if it does."""

    def __init__(self, message: str, step: str | None) -> None:
        super().__init__(message)
        self.step = step


def key_hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:12]
