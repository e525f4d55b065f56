"""The rendered Dockerfile, built and started for real before it goes to a target.

It says what a machine of the image is like from inside, what the build changed and broke in the
base, and how long a sandbox takes to be of use at each warm-up level. The engine is
`builder.precheck.engine`'s; nothing is recorded in the registry here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from builder.errors import PrecheckError, VerifyError
from builder.precheck import breakage, machine_sandbox
from builder.precheck.machine_sandbox import Machine
from builder.project import PrecheckSettings
from builder.render import Rendered, render
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
    run_checks,
    same_in_forks,
)

__all__ = ["Checked", "Engine", "Image", "known_good", "precheck"]

_POLL_SECONDS = 0.2
_WARMUP_FAILED = 3  # of `warmup.py ready`
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


class Engine(Protocol):
    """What is asked of a container engine; see `builder.precheck.engine`."""

    identity: str
    cpus: int

    def image(self, reference: str) -> Image:
        """An image by name, fetched where it is not there."""
        ...

    def has_image(self, identity: str) -> bool:
        """Whether an image is still there."""
        ...

    def build(self, rendered: Rendered, *, tag: str, report: Reporter, log: Log) -> Image:
        """Build the rendered context under the variant's memory limit."""
        ...

    def remove_image(self, image: Image) -> None:
        """Remove an image's name, and keep its layers."""
        ...

    def started(
        self, image: Image, *, cpu: int, memory_mb: int, idle: bool = False
    ) -> AbstractContextManager[Machine]:
        """A machine for the time of the block; `idle` instead of its CMD."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """A rendered variant that Docker builds, whose machine keeps its promises.

    `size` and `byte_code`, what the packages' byte code adds to the base, are in bytes.
    `ready_seconds` and `first_use` (seconds by module) are by warm-up level; `changed` is what the
    build did to the base's distributions: name → (version before, version after or None);
    `broken` is what worked in the base and does not now, all of it accepted by the spec. `reused`
    says that nothing had to be built again.
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

    def to_json(self) -> dict[str, Any]:
        """Everything found, as plain values."""
        return dataclasses.asdict(self)


def known_good(
    folder: Path, rendered: Rendered, engine: Engine, settings: PrecheckSettings
) -> Checked | None:
    """The last good pre-check of the same digest, engine and settings, if its image is there."""
    try:
        kept = parse_json((folder / f"{rendered.variant.name}.json").read_text(encoding="utf-8"))
        if kept["key"] != _key(rendered, engine, settings):
            return None
        found = Checked(**{**kept["checked"], "reused": True})
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if engine.has_image(found.image) else None


def precheck(
    rendered: Rendered,
    engine: Engine,
    *,
    folder: Path,
    settings: PrecheckSettings,
    force: bool,
    report: Reporter,
    log: Log,
) -> Checked:
    """Build the image, start it as a sandbox would be, look into it, run every check inside.

    `folder` keeps the results. Raises `PrecheckError`, `VerifyError`, `StorageError`,
    `NetworkError`; then the last good result is as it was.
    """
    variant = rendered.variant
    if not force and (found := known_good(folder, rendered, engine, settings)):
        return found

    def step(text: str) -> None:
        log.line(text)
        report(Event(kind="step", variant=variant.name, text=f"precheck: {text}"))

    start = time.perf_counter()
    image = engine.build(rendered, tag=_tag(variant, variant.level), report=report, log=log)
    seconds = round(time.perf_counter() - start, 3)
    base = _base(engine, rendered, folder, step)
    step("importing again what could be imported in the base image")
    with _idle(engine, image, variant) as machine:
        broken = breakage.what_broke(machine, base)
        byte_code = breakage.byte_code(machine) - base.byte_code
    breakage.refuse(broken, variant)
    in_vain = breakage.accepted_in_vain(broken, variant)
    for text in in_vain:
        report(Event(kind="warning", variant=variant.name, text=text))
    ready: dict[str, float] = {}
    first_use: dict[str, Mapping[str, float]] = {}
    with _started(engine, image, variant, settings, step) as (machine, ready_seconds):
        ready[variant.level] = ready_seconds
        sandbox = machine_sandbox.open_sandbox(machine, variant)
        if variant.imports:
            step("first use of the warm-up imports")
            first_use[variant.level] = first_use_seconds(sandbox, variant.imports)
        step("looking inside")
        packages = inventory(sandbox)
        results = _check(sandbox, variant, packages, step, log)
        found = Checked(
            name=variant.name,
            digest=rendered.digest,
            image=image.identity,
            size=image.size,
            byte_code=byte_code,
            layers=image.layers,
            build_seconds=seconds,
            user=image.user,
            workdir=image.workdir,
            env=image.env,
            packages=packages,
            system_packages=_debian(machine),
            changed={
                name: (version, packages.get(name))
                for name, version in base.packages.items()
                if packages.get(name) != version
            },
            broken=tuple(one.text for one in broken),
            checks=tuple(result.name for result in results),
            ready_seconds=ready,
            first_use=first_use,
            notes=(*_notes(engine, variant), *in_vain),
        )
    for level in _LEVELS[: _LEVELS.index(variant.level)]:
        _measure(
            level,
            rendered,
            engine,
            settings,
            ready,
            first_use,
            report=report,
            log=log,
            step=step,
        )
    kept = {"key": _key(rendered, engine, settings), "checked": found.to_json()}
    text = json.dumps(kept, indent=2, sort_keys=True) + "\n"
    atomic_write(folder / f"{variant.name}.json", text.encode())
    return found


def _key(rendered: Rendered, engine: Engine, settings: PrecheckSettings) -> str:
    accepted = rendered.variant.accept_broken
    inputs = f"{rendered.digest}\0{engine.identity}\0{settings!r}\0{accepted!r}"
    return hashlib.sha256(inputs.encode()).hexdigest()


def _tag(variant: Variant, level: str) -> str:
    return f"template-builder/{variant.name.strip('-_')}:{level}"


def _notes(engine: Engine, variant: Variant) -> tuple[str, ...]:
    if variant.cpu <= engine.cpus:
        return ()
    return (f"checked with {engine.cpus} CPUs, which is all the engine has, not {variant.cpu}",)


@contextlib.contextmanager
def _started(
    engine: Engine, image: Image, variant: Variant, settings: PrecheckSettings, step: Any
) -> Any:
    step("starting it as a sandbox")
    begun = time.perf_counter()
    # Without a service nothing runs in a sandbox; what the base image would start does not either.
    limits = {"cpu": variant.cpu, "memory_mb": variant.memory_mb}
    with engine.started(image, idle=not variant.command, **limits) as machine:
        limit = settings.ready_seconds
        yield machine, _wait_until_ready(machine, variant, begun, limit)


def _wait_until_ready(machine: Machine, variant: Variant, begun: float, limit: float) -> float:
    """Seconds until the ready check passes; then the health check must turn, too."""
    if not variant.command:
        return round(time.perf_counter() - begun, 3)
    deadline = begun + limit
    seconds = None
    while True:
        state, said = machine.state()
        if state == "out of memory":
            raise PrecheckError(
                f"the service of `{variant.name}` was killed: it needed more than the"
                f" {variant.memory_mb} MiB of the variant\n{said}",
                hint="raise `resources.memory-mb`, or warm up less",
            )
        if state == "exited":
            raise PrecheckError(
                f"the service of `{variant.name}` ended before it was ready: {said}",
                hint="correct `service.command`",
            )
        if seconds is None:
            words = ["python3", "/opt/template/warmup.py", "ready"]
            code, _, why = machine.run(words, timeout=30)
            if code == 0:
                seconds = round(time.perf_counter() - begun, 3)
            elif code == _WARMUP_FAILED:
                raise PrecheckError(
                    f"the interpreter of `{variant.name}` cannot be warmed: {why.strip()}",
                    hint="correct `warmup.imports`, or add the package that is missing",
                )
        if state == "healthy" and seconds is not None:
            return seconds
        if state == "unhealthy" or time.perf_counter() > deadline:
            raise PrecheckError(
                f"the health check of `{variant.name}` never turned healthy; it says: {said}\n"
                f"the service says: {machine.logs() or 'nothing'}",
                hint="correct `service.ready-url`, or what `service.command` starts",
            )
        time.sleep(_POLL_SECONDS)


def _base(
    engine: Engine, rendered: Rendered, folder: Path, step: Callable[[str], None]
) -> breakage.Base:
    """What the base image held before; kept for as long as it is the same image."""
    image = engine.image(rendered.lock.image.pinned)
    if base := breakage.kept(folder, image.identity):
        return base
    step("importing all that the base image holds")
    with _idle(engine, image, rendered.variant) as machine:
        base = breakage.look_into(machine)
    breakage.keep(folder, image.identity, base)
    return base


def _idle(engine: Engine, image: Image, variant: Variant) -> AbstractContextManager[Machine]:
    return engine.started(image, idle=True, cpu=variant.cpu, memory_mb=variant.memory_mb)


def _debian(machine: Machine) -> dict[str, str]:
    form = "${Package}\\t${Version}\\n"
    code, said, _ = machine.run(["dpkg-query", "--show", f"--showformat={form}"], timeout=60)
    pairs = (line.partition("\t")[::2] for line in said.splitlines()) if code == 0 else ()
    return dict(pairs)


def _check(
    sandbox: Sandbox,
    variant: Variant,
    packages: Mapping[str, str],
    step: Any,
    log: Log,
) -> Sequence[CheckResult]:
    results, failures = run_checks(sandbox, variant, packages, step)
    if variant.level == "memory" and isinstance(sandbox, machine_sandbox.ServiceSandbox):
        step("drawing random numbers in two forks of the warm interpreter")
        failures += same_in_forks(sandbox)
    if not failures:
        return results
    for failure in failures:
        log.line(f"failed: {failure}")
    raise VerifyError(
        f"`{variant.name}` builds with Docker but is not what it promises:\n"
        + "\n".join(f"  {failure}" for failure in failures)
        + f"\nlog: {log.path}",
        hint="correct the spec, or the check",
    )


def _measure(
    level: WarmupLevel,
    rendered: Rendered,
    engine: Engine,
    settings: PrecheckSettings,
    ready: dict[str, float],
    first_use: dict[str, Mapping[str, float]],
    *,
    report: Reporter,
    log: Log,
    step: Any,
) -> None:
    """Time to ready and first use at a lower level: its own image, from the same layers."""
    variant = dataclasses.replace(rendered.variant, level=level)
    step(f"measuring the level {level}")
    lower = render(variant, rendered.lock)
    image = engine.build(lower, tag=_tag(variant, level), report=report, log=log)
    try:
        with _started(engine, image, variant, settings, step) as (machine, seconds):
            ready[level] = seconds
            sandbox = machine_sandbox.open_sandbox(machine, variant)
            first_use[level] = first_use_seconds(sandbox, variant.imports)
    finally:
        engine.remove_image(image)
