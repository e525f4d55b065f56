"""Carry out builds: base image, steps, cache and log."""

from __future__ import annotations

import contextlib
import hashlib
import time
import traceback
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tests.support.e2b_server import distributions
from tests.support.e2b_server.starting import StepError
from tests.support.e2b_server.state import CANCELLED, Build
from tests.support.e2b_server.steps import chained

if TYPE_CHECKING:
    from tests.support.e2b_server.server import Server


_INTERNAL = "An internal error occurred. Please try again or contact support with the build ID."


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
            self._fail(build, str(error), error.step)
        except Exception as error:  # noqa: BLE001 - a test looks at what went wrong
            self.server.problems.append(f"build {build.id}: {error!r}")
            traceback.print_exc()
            self._fail(build, _INTERNAL, None)
        else:
            self._tell(build, f"Build finished, took {time.monotonic() - begun:.0f}s")
            with self.server.state.lock:
                if not build.canceled.is_set():
                    build.ended_at = time.monotonic()
                    build.become("ready")

    def _fail(self, build: Build, message: str, step: str | None) -> None:
        self._tell(build, f"Build failed: {message}", level="error")
        with self.server.state.lock:
            if not build.canceled.is_set():
                build.become("error", message, step)

    def _phases(self, build: Build) -> None:
        team, steps = build.team.key, build.request.get("steps") or []
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
        if build.source:
            build.start = build.source.start
            image, known = f"template:{build.source.id}", (build.source.machine,)
            key = hashed(str(build.free_disk_mb), image)
        else:
            image = build.request["fromImage"]
            key = hashed(str(build.free_disk_mb), image)
            known = self._known(team, key, force=force)
        self._tell(build, f"Building template {build.template_id}/{build.id}")
        line = f"[base] FROM {f'TEMPLATE {reference}' if reference else image} [{key}]"
        self._tell(build, f"CACHED {line}" if known else line, "base")
        if known is None:
            self._provision(build, image)
            known = (self.server.steps.base(image),)
            self._keep(team, key, known[0])
        key = hashed(key, "DEFAULT USER", "user")
        line = f"[base] DEFAULT USER user [{key}]"
        cached = self._known(team, key, force=force)
        self._tell(build, f"CACHED {line}" if cached else line, "base")
        self._keep(team, key, known[0])
        return key, known[0]

    def _provision(self, build: Build, image: str) -> None:
        self._tell(build, "Provisioning sandbox template", "base")
        refused = distributions.refusal(image)
        for line in refused:
            self._tell(build, line, "base", "debug")
        if refused:
            why = "\n".join(["exit status: 1; provisioning output tail:", *refused])
            raise StepError(f"error waiting for provisioning sandbox: {why}")

    def _start(self, build: Build, layer: Any) -> None:
        """Run the template's start and ready commands, or those of the template below it."""
        own = build.request.get("startCmd") or "", build.request.get("readyCmd") or ""
        build.start = (*own, layer) if any(own) else build.start

        def tell(message: str, level: str = "info") -> None:
            self._tell(build, message, "finalize", level)

        build.machine = self.server.steps.finish(layer, build, tell)

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
        if wrong := misfit_of_arguments(kind, step.get("args") or []):
            raise StepError(wrong)
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


def misfit_of_arguments(kind: str, args: list[str]) -> str | None:
    """Return what is wrong with the number of a step's arguments, or None."""
    if kind in ("ENV", "ARG"):
        if not args:
            return f"{kind} does not support passing no arguments"
        return f"{kind} requires both a key and value arguments" if len(args) % 2 else None
    least, wrong = {
        "RUN": (1, "RUN requires command argument"),
        "USER": (1, "USER requires a username argument"),
        "WORKDIR": (1, "WORKDIR requires a path argument"),
    }.get(kind, (2, "COPY requires a local path and a container path argument"))
    return wrong if len(args) < least else None


class _CancelledError(Exception):
    """A newer build has replaced this one."""


class _FailedError(Exception):
    """The build failed; `step` is the step that E2B names, if any."""

    def __init__(self, message: str, step: str | None) -> None:
        super().__init__(message)
        self.step = step


def hashed(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
