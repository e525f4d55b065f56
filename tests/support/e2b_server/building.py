"""Carry out builds: base image, steps, cache and log."""

from __future__ import annotations

import contextlib
import hashlib
import time
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tests.support.e2b_server.state import CANCELLED, ApiError, Build
from tests.support.e2b_server.steps import StepError, chained

if TYPE_CHECKING:
    from tests.support.e2b_server.server import Server


class Builder:
    """Carries out builds, each in its own thread."""

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
        team, steps = build.team.key, build.request.get("steps", [])
        force = bool(build.request.get("force"))
        with self._phase(build, "base"):
            key, layer = self._base(build, force=force)
        cached = True
        for number, step in enumerate(steps, start=1):
            with self._phase(build, str(number)):
                force = force or bool(step.get("force"))
                key = chained(key, step)
                text = f"{step['type'].upper()} {' '.join(step.get('args', []))}"
                line = f"[builder {number}/{len(steps)}] {text} [{key}]"
                known = self._known(team, key, force=force)
                self._tell(build, f"CACHED {line}" if known else line, str(number))
                if not cached:
                    self._tell(build, f"Saved: {uuid.uuid4()}", str(number - 1), "debug")
                cached = known is not None
                layer = self._run(build, layer, step, number, len(steps)) if not known else known[0]
                if not known:
                    with self.server.state.lock:
                        self.server.state.executed.append((team, key))
                    for doing in ("Adding layer to cache", "Uploading layer"):
                        self._tell(build, f"{doing}: {uuid.uuid4()}", str(number), "debug")
                self._keep(team, key, layer)
        for name, text in (
            ("resize-disk", "Resizing disk"),
            ("finalize", "Finalizing template build"),
            ("optimize", "Optimizing template"),
        ):
            with self._phase(build, name):
                self._tell(build, f"[{name}] {text} [{hashed(key, name)}]", name)
                if name == "finalize":
                    self._start(build, layer)

    def _base(self, build: Build, *, force: bool) -> tuple[str, Any]:
        """Return what the first step starts from, an image or another template, and its key."""
        team, reference = build.team.key, build.request.get("fromTemplate")
        known: tuple[Any] | None
        if reference:
            source = self._source(build, reference)
            build.start = source.start
            image, known = f"template:{source.id}", (source.machine,)
            key = hashed(str(build.free_disk_mb), image)
        else:
            image = build.request["fromImage"]
            key = hashed(str(build.free_disk_mb), image)
            known = self._known(team, key, force=force)
        self._tell(build, f"Building template {build.template_id}/{build.id}")
        line = f"[base] FROM {f'TEMPLATE {reference}' if reference else image} [{key}]"
        self._tell(build, f"CACHED {line}" if known else line, "base")
        if known is None:
            self._tell(build, "Provisioning sandbox template", "base")
            known = (self.server.steps.base(image),)
            self._keep(team, key, known[0])
        key = hashed(key, "DEFAULT USER", "user")
        line = f"[base] DEFAULT USER user [{key}]"
        cached = self._known(team, key, force=force)
        self._tell(build, f"CACHED {line}" if cached else line, "base")
        self._keep(team, key, known[0])
        return key, known[0]

    def _source(self, build: Build, reference: str) -> Build:
        try:
            return self.server.state.resolve(build.team, reference)[1]
        except ApiError as error:
            raise StepError(error.message.replace("Invalid", "invalid")) from error

    def _start(self, build: Build, layer: Any) -> None:
        """Run the template's start and ready commands, or those of the template below it."""
        own = build.request.get("startCmd") or "", build.request.get("readyCmd") or ""
        build.start = (*own, layer) if any(own) else build.start
        start, ready = build.start[:2] if build.start else ("", "")
        if start:
            self._tell(build, f"Running start command: {start}", "finalize")
        build.machine = self.server.steps.finish(
            layer, build, lambda line: self._tell(build, f"[start] {line}", "finalize")
        )
        if build.start:
            ready = ready or ("sleep 20" if start else "sleep 0")
            self._tell(build, f"Waiting for template to be ready: {ready}", "finalize")
            self._tell(build, "Template is ready", "finalize")

    @contextlib.contextmanager
    def _phase(self, build: Build, name: str) -> Iterator[None]:
        """Run a phase, under the name that its errors have; fail if a test wants it to."""
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
        with self.server.state.lock:
            build.log.append(entry)

    def _known(self, team: str, key: str, *, force: bool) -> tuple[Any] | None:
        with self.server.state.lock:
            layers = self.server.state.layers
            return (layers[team, key],) if (team, key) in layers and not force else None

    def _keep(self, team: str, key: str, layer: Any) -> None:
        with self.server.state.lock:
            self.server.state.layers[team, key] = layer

    def _run(self, build: Build, layer: Any, step: dict[str, Any], number: int, count: int) -> Any:
        files, kind = None, step["type"].upper()
        if kind not in ("ADD", "ARG", "COPY", "ENV", "RUN", "USER", "WORKDIR"):
            why = f"command type {kind} is not implemented"
            raise StepError(f"failed to get command for step {step['type']}: {why}")
        if kind in ("ADD", "COPY"):
            if not step.get("filesHash"):
                raise StepError(f"{kind} requires files hash to be set")
            files = self.server.state.files.get((build.team.key, step["filesHash"]))
            if files is None:
                raise StepError("failed to open files object from storage: object does not exist")
        try:
            return self.server.steps.run(
                layer,
                step,
                files,
                lambda line: self._tell(build, f"[builder {number}/{count}] {line}", str(number)),
            )
        except StepError as error:
            if kind != "RUN":
                raise
            raise StepError(f"failed to run command '{step['args'][0]}': {error}") from error


class _CancelledError(Exception):
    """A newer build has replaced this one."""


class _FailedError(Exception):
    """The build failed; `step` is the step that E2B names, if any."""

    def __init__(self, message: str, step: str | None) -> None:
        super().__init__(message)
        self.step = step


def hashed(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
