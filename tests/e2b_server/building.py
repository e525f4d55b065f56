"""Carrying a build out: its base, its steps, their cache, its log."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, Any

from e2b.api.client import models

from tests.e2b_server.state import Build
from tests.e2b_server.steps import StepError, chained
from tests.e2b_server.wire import fits

if TYPE_CHECKING:
    from tests.e2b_server.server import Server


class Builder:
    """Carries builds out, each in a thread of its own."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def carry_out(self, build: Build) -> None:
        team, asked = build.team.key, build.request
        steps = asked.get("steps", [])
        force = bool(asked.get("force"))

        def tell(message: str, step: str, level: str = "info") -> None:
            entry = {
                "timestamp": self.server.now().isoformat(),
                "message": message,
                "level": level,
                "step": step,
            }
            fits(models.BuildLogEntry, entry)
            with self.server.state.lock:
                build.log.append(entry)

        at = "base"
        try:
            key = f"{asked.get('fromImage') or asked.get('fromTemplate')}\n{build.free_disk_mb}"
            tell("Building template", at)
            layer = self._layer(
                team, key, force, lambda: self.server.steps.base(asked["fromImage"])
            )
            cached = "CACHED " if layer[1] else ""
            tell(f"{cached}[base] FROM {asked['fromImage']} [{key_hash(key)}]", at)
            made = layer[0]
            for number, step in enumerate(steps, start=1):
                if build.canceled.is_set():
                    return
                at = str(number)
                force = force or bool(step.get("force"))
                key = chained(key, step)
                head = f"[builder {number}/{len(steps)}] {step['type']}"
                told = f"{head} {' '.join(step.get('args', []))} [{key_hash(key)}]"
                with self.server.state.lock:
                    known = None if force else self.server.state.layers.get((team, key))
                if known is not None:
                    made = known
                    tell(f"CACHED {told}", at)
                    continue
                tell(told, at)
                made = self._run(build, made, step, number, len(steps), tell)
                with self.server.state.lock:
                    self.server.state.executed.append((team, key))
                    self.server.state.layers[team, key] = made
            at = "finalize"
            tell("[finalize] Finalizing template build", at)
            build.machine = self.server.steps.finish(made, build)
            tell("[finalize] Build finished", at)
        except StepError as error:
            with self.server.state.lock:
                if not build.canceled.is_set():
                    build.status, build.message, build.step = "error", str(error), at
            return
        with self.server.state.lock:
            if not build.canceled.is_set():
                build.status, build.ended_at = "ready", time.monotonic()

    def _layer(self, team: str, key: str, force: bool, make: Any) -> tuple[Any, bool]:
        with self.server.state.lock:
            known = None if force else self.server.state.layers.get((team, key))
        if known is not None:
            return known, True
        made = make()
        with self.server.state.lock:
            self.server.state.layers[team, key] = made
        return made, False

    def _run(
        self, build: Build, layer: Any, step: dict[str, Any], number: int, count: int, tell: Any
    ) -> Any:
        files = None
        if step["type"] == "COPY":
            files = self.server.state.files.get((build.team.key, step.get("filesHash", "")))
            if files is None:
                raise StepError("the files of the step were not uploaded")
        return self.server.steps.run(
            layer,
            step,
            files,
            lambda line: tell(f"[builder {number}/{count}] {line}", str(number)),
        )


def key_hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:12]
