"""Build and start a rendered Dockerfile before it goes to a target.

The result describes the image from inside, what the build changed and broke in the base image, and
how long a sandbox takes to be ready at each warm-up level. The engine is in
`builder.precheck.engine`; nothing is recorded in the registry here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from builder.errors import PrecheckError, VerifyError
from builder.precheck import breakage, machine_sandbox
from builder.project import PrecheckSettings
from builder.render import Rendered, image_name, render
from builder.sandbox.session import Sandbox
from builder.spec import Variant, WarmupLevel
from builder.system.documents import parse_json
from builder.system.events import Event, Reporter
from builder.system.files import atomic_write
from builder.system.logs import Log
from builder.verify.checks import (
    CheckResult,
    first_use_seconds,
    inventory,
    not_imported,
    run_checks,
    same_in_forks,
)

if TYPE_CHECKING:
    from builder.precheck.engine import DockerEngine
    from builder.precheck.machine import Machine

_POLL_SECONDS = 0.2
_WARMUP_FAILED = 3  # of `warmup.py ready`
# Checks in one process for a second: a new process for each check would slow the service down.
_READY = f"""
import runpy, sys, time
ready = runpy.run_path("/opt/template/warmup.py")["ready"]
end = time.monotonic() + 1
while True:
    try:
        sys.exit(ready())
    except OSError:
        pass
    except SystemExit as exited:
        if exited.code in (None, {_WARMUP_FAILED}):
            raise
    if time.monotonic() > end:
        sys.exit(1)
    time.sleep({_POLL_SECONDS})
"""
_LEVELS: tuple[WarmupLevel, ...] = ("none", "disk", "memory")


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """An image on an engine; `size` is in bytes."""

    identity: str
    size: int
    layers: int
    env: Mapping[str, str]
    user: str
    workdir: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """A rendered variant that passed the pre-check.

    `size` is in bytes, as is `byte_code`, which the packages add to the base image. `ready_seconds`
    and `first_use` (seconds by module) are by warm-up level. `changed` are distributions of the
    base image: name → (version before, version after or None). `broken` is what the build broke in
    the base image, accepted by the spec. `reused` means that an earlier result is still valid.
    """

    name: str
    digest: str
    image: str
    size: int
    byte_code: int
    layers: int
    build_seconds: float
    user: str
    workdir: str
    env: Mapping[str, str]
    packages: Mapping[str, str]
    system_packages: Mapping[str, str]
    changed: Mapping[str, tuple[str, str | None]]
    broken: tuple[str, ...]
    checks: tuple[str, ...]
    ready_seconds: Mapping[str, float]
    first_use: Mapping[str, Mapping[str, float]]
    notes: tuple[str, ...] = ()
    reused: bool = field(default=False, compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Precheck:
    """A pre-check of a rendered variant; `folder` keeps the results."""

    rendered: Rendered
    engine: DockerEngine
    folder: Path
    settings: PrecheckSettings
    report: Reporter
    log: Log

    def run(self, *, force: bool) -> Checked:
        """Build the image, start it like a sandbox, inspect it, and run every check in it.

        A result for the same digest, engine and settings is returned again unless `force`. Raise
        `PrecheckError`, `VerifyError`, `StorageError`, `NetworkError`.
        """
        if not force and (good := self._kept()):
            return good
        checked = self._check()
        content = {"key": self._key, "checked": dataclasses.asdict(checked)}
        text = json.dumps(content, indent=2, sort_keys=True) + "\n"
        atomic_write(self._place, text.encode())
        return checked

    @property
    def _place(self) -> Path:
        return self.folder / f"{self._variant.name}.json"

    @property
    def _key(self) -> str:
        accepted = self._variant.accept_broken
        inputs = f"{self.rendered.digest}\0{self.engine.identity}\0{self.settings!r}\0{accepted!r}"
        return hashlib.sha256(inputs.encode()).hexdigest()

    def _kept(self) -> Checked | None:
        try:
            content = parse_json(self._place.read_text(encoding="utf-8"))
            checked = Checked(**{**content["checked"], "reused": True})
            is_same = content["key"] == self._key
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return checked if is_same and self.engine.has_image(checked.image) else None

    @property
    def _variant(self) -> Variant:
        return self.rendered.variant

    def _step(self, text: str) -> None:
        self.log.line(text)
        self.report(Event(kind="step", variant=self._variant.name, text=f"precheck: {text}"))

    def _check(self) -> Checked:
        """Build, compare with the base image, inspect, and measure at each warm-up level."""
        variant, engine = self._variant, self.engine
        start = time.perf_counter()
        image = self._build(self.rendered)
        seconds = round(time.perf_counter() - start, 3)
        base = self._base()
        broken, byte_code = self._compare(image, base)
        notes = breakage.accepted_in_vain(broken, variant)
        for text in notes:
            self.report(Event(kind="warning", variant=variant.name, text=text))
        if variant.cpu > engine.cpus:
            text = f"checked with {engine.cpus} CPUs, all that the engine has, instead of"
            notes.insert(0, f"{text} {variant.cpu}")
        notes += not_imported(variant)
        ready_seconds: dict[str, float] = {}
        first_use: dict[str, Mapping[str, float]] = {}
        with self._started(image) as (machine, ready_seconds[variant.level]):
            sandbox = machine_sandbox.open_sandbox(machine, variant)
            if variant.imports:
                self._step("first use of the warm-up imports")
                first_use[variant.level] = first_use_seconds(sandbox, variant.imports)
            self._step("inspecting the packages")
            packages = inventory(sandbox)
            checks = self._run_checks(sandbox, packages)
            system_packages = _debian(machine)
        for level in _LEVELS[: _LEVELS.index(variant.level)]:
            ready_seconds[level], first_use[level] = self._measure(level)
        return Checked(
            name=variant.name,
            digest=self.rendered.digest,
            image=image.identity,
            size=image.size,
            byte_code=byte_code,
            layers=image.layers,
            build_seconds=seconds,
            user=image.user,
            workdir=image.workdir,
            env=image.env,
            packages=packages,
            system_packages=system_packages,
            changed={
                name: (version, packages.get(name))
                for name, version in base.packages.items()
                if packages.get(name) != version
            },
            broken=tuple(line.text for line in broken),
            checks=tuple(check.name for check in checks),
            ready_seconds=ready_seconds,
            first_use=first_use,
            notes=tuple(notes),
        )

    def _build(self, rendered: Rendered) -> Image:
        tag = image_name(self._variant.name, rendered.variant.level)
        return self.engine.build(rendered, tag=tag, report=self.report, log=self.log)

    def _base(self) -> breakage.Base:
        """Return the content of the base image, which is kept for as long as the image is."""
        image = self.engine.base_of(self.rendered)
        if base := breakage.kept(self.folder, image.identity):
            return base
        self._step("importing everything in the base image")
        with self._idle(image) as machine:
            base = breakage.look_into(machine)
        breakage.keep(self.folder, image.identity, base)
        return base

    def _compare(
        self, image: Image, base: breakage.Base
    ) -> tuple[tuple[breakage.Broken, ...], int]:
        """Return what is broken in the base image, and the bytes of byte code added to it."""
        self._step("repeating the imports of the base image")
        with self._idle(image) as machine:
            broken = breakage.what_broke(machine, base)
            byte_code = breakage.byte_code(machine) - base.byte_code
        breakage.refuse(broken, self._variant)
        return broken, byte_code

    def _idle(self, image: Image) -> AbstractContextManager[Machine]:
        return self.engine.started(image, self._variant, idle=True)

    @contextlib.contextmanager
    def _started(self, image: Image) -> Iterator[tuple[Machine, float]]:
        """Start a container like a sandbox, and measure the seconds until it is ready."""
        self._step("starting it like a sandbox")
        variant = self._variant

        def waiting() -> None:
            self._step("waiting for another pre-check, whose service has the ports of the host")

        # Without a service nothing runs in a sandbox, not even the command of the base image.
        idle = not variant.command
        with self.engine.started(image, variant, idle=idle, waiting=waiting) as machine:
            begun = time.perf_counter()
            yield machine, _wait_until_ready(machine, variant, begun, self.settings.ready_seconds)

    def _run_checks(self, sandbox: Sandbox, packages: Mapping[str, str]) -> Sequence[CheckResult]:
        """Run every check of the variant. Raise `VerifyError`."""
        results, failures = run_checks(
            sandbox, self._variant, packages, self._step, derived=self.rendered.loading_checks
        )
        if self._variant.level == "memory" and isinstance(sandbox, machine_sandbox.ServiceSandbox):
            self._step("drawing random numbers in two forks of the warm interpreter")
            failures += same_in_forks(sandbox)
        if not failures:
            return results
        for failure in failures:
            self.log.line(f"failed: {failure}")
        raise VerifyError(
            f"`{self._variant.name}` builds with Docker but fails its checks:\n"
            + "\n".join(f"  {failure}" for failure in failures)
            + f"\nlog: {self.log.path}",
            hint="correct the spec, or the check",
        )

    def _measure(self, level: WarmupLevel) -> tuple[float, Mapping[str, float]]:
        """Measure time to ready and first use at a lower level, in a separate image."""
        variant = dataclasses.replace(self._variant, level=level)
        self._step(f"measuring warm-up level {level}")
        image = self._build(render(variant, self.rendered.lock))
        try:
            with self._started(image) as (machine, seconds):
                sandbox = machine_sandbox.open_sandbox(machine, variant)
                return seconds, first_use_seconds(sandbox, variant.imports)
        finally:
            self.engine.remove_image(image)


def _wait_until_ready(machine: Machine, variant: Variant, begun: float, limit: float) -> float:
    """Return the seconds until the ready check passes, after the health check has passed, too."""
    if not variant.command:
        return round(time.perf_counter() - begun, 3)
    deadline = begun + limit
    seconds = None
    while True:
        state, output = machine.state()
        if state == "out of memory":
            raise PrecheckError(
                f"the service of `{variant.name}` was killed: it needed more than its"
                f" {variant.memory_mb} MiB of memory\n{output}",
                hint="raise `resources.memory-mb`, or warm up less",
            )
        if state == "exited":
            raise PrecheckError(
                f"the service of `{variant.name}` exited before it was ready: {output}",
                hint="correct `service.command`",
            )
        if seconds is None:
            code, why = _ready_check(machine)
            if code == 0:
                seconds = round(time.perf_counter() - begun, 3)
            elif code == _WARMUP_FAILED:
                raise PrecheckError(
                    f"the warm-up of `{variant.name}` failed: {why.strip()}",
                    hint="correct `warmup.imports`, or add the missing package",
                )
        if state == "healthy" and seconds is not None:
            return seconds
        if time.perf_counter() > deadline:
            raise PrecheckError(
                f"the health check of `{variant.name}` never passed: {output}\n"
                f"output of the service: {machine.logs() or 'none'}",
                hint=f"correct `service.{variant.ready_key}` or `service.command`",
            )
        time.sleep(_POLL_SECONDS)


def _ready_check(machine: Machine) -> tuple[int, str]:
    try:
        code, _, why = machine.run(["python3", "-c", _READY], timeout=30)
    except PrecheckError as error:
        if machine.state()[0] in ("exited", "out of memory"):
            return 1, error.message  # the next look at its state says why it stopped
        raise
    return code, why


def _debian(machine: Machine) -> dict[str, str]:
    form = "${Package}\\t${Version}\\n"
    code, output, _ = machine.run(["dpkg-query", "--show", f"--showformat={form}"], timeout=60)
    return dict(line.partition("\t")[::2] for line in output.splitlines()) if code == 0 else {}
