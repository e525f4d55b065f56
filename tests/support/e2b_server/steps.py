"""Carry out the steps of builds: with modelled times, or for real in Docker."""

from __future__ import annotations

import contextlib
import hashlib
import io
import tarfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from builder.flatten import Program, Step
from tests.support.e2b_server.starting import (
    READY_SECONDS,
    ContainerCommands,
    LateServiceError,
    Start,
    StepError,
    model_start,
)
from tests.support.e2b_server.state import Build

# What E2B says before the end of the command that carries out a step.
_FAILED = {
    "COPY": "failed to move files in sandbox: ",
    "USER": "failed to create user: ",
    "WORKDIR": "failed to create workdir: ",
}

_STARTS = 3


class Steps(Protocol):
    """Carries out the steps of builds. A layer is whatever the next step starts from."""

    def base(self, image: str) -> Any: ...

    def run(self, layer: Any, step: dict[str, Any], files: bytes | None, tell: Any) -> Any: ...

    def finish(self, layer: Any, build: Build, tell: Any) -> Any:
        """Start the template, if it has a start or ready command, and return its machine."""


def _nothing_fails(_step: dict[str, Any]) -> str | None:
    return None


@dataclass
class ModelledSteps:
    """Steps that take time and do nothing; a layer is the list of archives copied into it.
    `fails` returns why a step fails, or None. A start or ready command fails if it plainly does
    nothing else, as `exit 1` and `false`."""

    seconds: Callable[[dict[str, Any]], float] = lambda _step: 0.0
    base_seconds: float = 0.0
    final_seconds: float = 0.0
    fails: Callable[[dict[str, Any]], str | None] = _nothing_fails
    lines: int = 1

    def base(self, image: str) -> Any:
        time.sleep(self.base_seconds)
        return []

    def run(self, layer: Any, step: dict[str, Any], files: bytes | None, tell: Any) -> Any:
        time.sleep(self.seconds(step))
        for number in range(self.lines):
            tell(f"[stdout]: line {number} of {step['type']}")
        if why := self.fails(step):
            tell("[stderr]: it went wrong")
            raise StepError(why)
        return [*layer, files] if files else layer

    def finish(self, layer: Any, build: Build, tell: Any) -> Any:
        if build.start:
            model_start(*build.start[:2], self.final_seconds, tell)
        else:
            time.sleep(self.final_seconds)
        return layer


@dataclass
class DockerSteps:
    """Steps run in containers as `tests.support.engine` runs them; each layer is an image."""

    network: str = "host"
    ready_seconds: float = READY_SECONDS
    made: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def base(self, image: str) -> Any:
        from tests.support.engine import config_of, opened

        return opened(image), dict(config_of(image).env), "user", None

    def run(self, layer: Any, step: dict[str, Any], files: bytes | None, tell: Any) -> Any:
        from tests.support import engine

        image, env, user, workdir = layer
        kind: Any = {"ADD": "COPY", "ARG": "ENV"}.get(step["type"].upper(), step["type"].upper())
        args = [*step.get("args", [])]
        if kind == "RUN" and len(args) == 1:
            args.append("")
        with engine.running(image, network=self.network) as container:
            if kind == "RUN" and args[1] and container.exec_run(["id", "-u", args[1]]).exit_code:
                refused = f"unauthenticated: invalid username: '{args[1]}'"
                raise StepError(f"command failed: {refused}")
            machine = engine.Machine(container, env)
            machine.user, machine.workdir_set = user, workdir
            program = Program(
                base_image=image,
                steps=(Step(kind=kind, args=tuple(args), stage="", lines=(0, 0)),),
                start_command=None,
                ready_command=None,
                env={},
                user=user,
                workdir=machine.workdir,
                metadata=(),
                assumptions=(),
                steps_before=1,
            )
            with unpacked(files) as context:
                try:
                    machine.carry_out(program, context)
                except engine.CommandError as error:
                    for name, output in error.outputs.items():
                        for line in filter(None, map(str.strip, output.split("\n"))):
                            tell(f"[{name}]: {line}")
                    raise StepError(f"{_FAILED.get(kind, '')}exit status {error.code}") from error
            for text in machine.log:
                for line in text.splitlines():
                    tell(f"[stdout]: {line}")
            layer_image = container.commit()
        with self.lock:
            self.made.append(str(layer_image.id))
        return layer_image.id, dict(machine.env), machine.user, machine.workdir_set

    def finish(self, layer: Any, build: Build, tell: Any) -> Any:
        from tests.support import engine

        image, env, user, workdir = layer
        with engine.running(image, network=self.network) as container:
            machine = engine.Machine(container, env)
            machine.user, machine.workdir_set = user, workdir
            machine.finalize()
            layer_image = container.commit()
        with self.lock:
            self.made.append(str(layer_image.id))
        if build.start:
            self._start(str(layer_image.id), build.start, tell)
        return layer_image.id, env, user, machine.workdir

    def _start(self, image: str, start: tuple[str, str, Any], tell: Any) -> None:
        """Start the template in a container that is thrown away: each sandbox starts its service
        anew. The container has ports of its own, since several builds may start a service."""
        from tests.support import engine

        command, ready, layer = start
        for left in reversed(range(_STARTS)):
            with engine.running(image, network="bridge") as container:
                commands = ContainerCommands(container, layer, tell)
                try:
                    Start(commands.run, tell, ready_seconds=self.ready_seconds).wait(command, ready)
                except LateServiceError:
                    if not left:
                        raise
                else:
                    return

    def remove(self) -> None:
        from tests.support import engine

        for image in reversed(self.made):
            with contextlib.suppress(Exception):
                engine.client().images.remove(image, force=True)


def evaluation(value: str) -> str:
    """Return the command by which E2B's builder evaluates an ENV value, as root in a login shell
    that has none of the template's variables."""
    for special in ("\\", '"', "`", "$("):
        value = value.replace(special, f"\\{special}")
    return f'printf "%s" "{value}"'


def extract(archive: bytes, folder: Path) -> None:
    """Unpack an upload."""
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        # Set as an attribute, since Python 3.11.2 has no argument for it.
        tar.extraction_filter = getattr(tarfile, "tar_filter", None)
        tar.extractall(folder)  # noqa: S202 - archives of this program's own


@contextlib.contextmanager
def unpacked(files: bytes | None) -> Any:
    """Yield the folder of an unpacked upload."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        if files is not None:
            extract(files, Path(folder))
        yield Path(folder)


def chained(parent: str, step: dict[str, Any]) -> str:
    """Return the key of a step's layer, from the parent's key, kind, arguments and files."""
    told = [parent, step["type"], " ".join(step.get("args", [])), step.get("filesHash", "")]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()
