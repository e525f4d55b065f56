"""Does the build do what the spec promises? Asked in real sandboxes of that very build.

Smoke tests come from what the distributions themselves say they install. Nothing is recorded here.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from builder.build import Built
from builder.errors import SandboxError, VerifyError
from builder.events import Event, Reporter
from builder.logs import Log
from builder.render import Rendered
from builder.spec import Check

__all__ = ["Execution", "Sandbox", "SandboxOpener", "Verified", "verify"]

SMOKE_TIMEOUT_SECONDS = 300
_TOLD_CHARACTERS = 2000
_TOLD_LINES = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Execution:
    """What running code gave. `results` are MIME bundles; `traceback` is plain text."""

    stdout: str = ""
    stderr: str = ""
    results: tuple[Mapping[str, Any], ...] = ()
    error: str | None = None
    traceback: str = ""
    timed_out: bool = False
    seconds: float = 0.0


class Sandbox(Protocol):
    """A running sandbox."""

    def run(self, code: str, *, timeout: float) -> Execution:
        """Run Python code, `timeout` in seconds. Errors of the code are in the result."""
        ...

    def close(self) -> None:
        """End it and all that runs in it."""
        ...


class SandboxOpener(Protocol):
    """The part of a target that opens sandboxes."""

    def open(self, ref: str, *, warm: Sequence[str], env: Mapping[str, str]) -> Sandbox:
        """Open a sandbox of a build, with the modules of `warm` imported already.

        Raises `SandboxError`, `NotOnThisMachineError`.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckResult:
    """One check that passed; `seconds` is what it took."""

    name: str
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Verified:
    """A build that keeps its promises, with what was measured on the way (seconds)."""

    built: Built
    checks: tuple[CheckResult, ...]
    packages: Mapping[str, str]
    sandbox_seconds: float
    warm_sandbox_seconds: float | None
    first_use: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def verify(
    built: Built, rendered: Rendered, opener: SandboxOpener, *, report: Reporter, log: Log
) -> Verified:
    """Open sandboxes of `built`, take the times, run every check.

    Raises `VerifyError` naming each failed check with what was expected and found, `SandboxError`
    when a sandbox does not come up.
    """
    variant = rendered.variant

    def step(text: str) -> None:
        log.line(text)
        report(Event(kind="step", variant=variant.name, text=f"verify: {text}"))

    first_use: dict[str, Mapping[str, float]] = {"cold": built.cold} if built.cold else {}
    warm_seconds = None
    with contextlib.ExitStack() as stack:
        step("opening a sandbox")
        sandbox, seconds = _opened(stack, opener, built.ref, (), variant.env)
        if variant.imports:
            step("first use of the warm-up imports")
            level = "cold" if variant.level == "none" else "disk"
            first_use[level] = _first_use(sandbox, variant.imports)
        if variant.level == "memory":
            sandbox, warm_seconds = _opened(stack, opener, built.ref, variant.imports, variant.env)
            first_use["memory"] = _first_use(sandbox, variant.imports)
        packages = _inventory(sandbox)
        results, failures = _run_checks(sandbox, rendered, packages, step)
    if failures:
        for failure in failures:
            log.line(f"failed: {failure}")
        raise VerifyError(
            f"`{built.name}` was built on `{built.target}` but is not what it promises:\n"
            + "\n".join(f"  check {failure}" for failure in failures),
            hint=f"nothing was recorded; `template-builder logs {built.name}` has the whole story",
        )
    locked = rendered.lock.packages
    return Verified(
        built=built,
        checks=tuple(results),
        packages={name: version for name, version in packages.items() if name in locked},
        sandbox_seconds=seconds,
        warm_sandbox_seconds=warm_seconds,
        first_use=first_use,
    )


def _run_checks(
    sandbox: Sandbox,
    rendered: Rendered,
    packages: Mapping[str, str],
    step: Callable[[str], None],
) -> tuple[list[CheckResult], list[str]]:
    """Every check of the variant: those that passed, and what is wrong with the others."""
    results: list[CheckResult] = []
    failures: list[str] = []
    for requirement in map(Requirement, rendered.variant.requirements):
        name = canonicalize_name(requirement.name)
        if requirement.marker and name not in packages:
            continue  # the marker excludes this platform
        step(f"import {name}")
        found = _smoke(sandbox, name)
        if isinstance(found, str):
            failures.append(f"`import {name}`: {found}")
        elif found.name not in {result.name for result in results}:
            results.append(found)
    for stage in rendered.variant.stages:
        for check in stage.checks:
            step(check.name)
            outcome = _check(sandbox, check)
            if isinstance(outcome, str):
                failures.append(f"`{check.name}` of {stage.source}: {outcome}")
            else:
                results.append(outcome)
    return results, failures


def _opened(
    stack: contextlib.ExitStack,
    opener: SandboxOpener,
    ref: str,
    warm: Sequence[str],
    env: Mapping[str, str],
) -> tuple[Sandbox, float]:
    start = time.perf_counter()
    sandbox = opener.open(ref, warm=warm, env=env)
    stack.callback(sandbox.close)
    return sandbox, round(time.perf_counter() - start, 6)


def _first_use(sandbox: Sandbox, imports: Sequence[str]) -> dict[str, float]:
    code = (
        "import importlib, json, time\n"
        "seconds = {}\n"
        f"for name in {list(imports)!r}:\n"
        "    start = time.perf_counter()\n"
        "    importlib.import_module(name)\n"
        "    seconds[name] = round(time.perf_counter() - start, 6)\n"
        "print(json.dumps(seconds))\n"
    )
    answer = _answer(_run(sandbox, code, SMOKE_TIMEOUT_SECONDS), dict)
    if isinstance(answer, str):
        raise VerifyError(
            f"the warm-up imports {', '.join(imports)} fail in a sandbox: {answer}",
            hint="correct `warmup.imports`, or add the package that is missing",
        )
    return answer


def _inventory(sandbox: Sandbox) -> dict[str, str]:
    code = (
        "import importlib.metadata, json\n"
        "print(json.dumps({d.metadata['Name']: d.version"
        " for d in importlib.metadata.distributions() if d.metadata['Name']}))\n"
    )
    answer = _answer(_run(sandbox, code, SMOKE_TIMEOUT_SECONDS), dict)
    if isinstance(answer, str):
        raise VerifyError(f"the sandbox cannot list its packages: {answer}")
    return {canonicalize_name(name): version for name, version in sorted(answer.items())}


# What a distribution installs at the top level is what can be imported of it. Where one of that
# has the distribution's own name, it is the one that must work; the rest may be tests and tools.
_SMOKE = """
import importlib, importlib.metadata, json, re
name = {name!r}
files = importlib.metadata.distribution(name).files or []
tops, packages = set(), set()
for path in files:
    first, *rest = path.parts
    stem = first.partition(".")[0]
    if not stem.isidentifier() or first.endswith((".dist-info", ".data", ".egg-info", ".pth")):
        continue
    if rest and not rest[-1].endswith((".py", ".so", ".pyd")):
        continue
    if not rest and not first.endswith((".py", ".so", ".pyd")):
        continue
    tops.add(stem)
    if not rest or rest == ["__init__.py"]:
        packages.add(stem)
own = re.sub(r"[-_.]+", "_", name).lower()
public = sorted(t for t in (packages or tops) if not t.startswith("_"))
same = [t for t in public if t.lower() == own]
unlikely = ("test", "tests", "doc", "docs", "example", "examples", "benchmarks", "scripts")
modules = same or [t for t in public if t not in unlikely]
for module in modules:
    importlib.import_module(module)
print(json.dumps(modules))
"""


def _smoke(sandbox: Sandbox, name: str) -> CheckResult | str:
    found = _run(sandbox, _SMOKE.format(name=name), SMOKE_TIMEOUT_SECONDS)
    modules = _answer(found, list)
    if isinstance(found, str) or isinstance(modules, str):
        return f"expected that it can be imported, got {modules}"
    title = f"import {name}" + (f" ({', '.join(modules)})" if modules and modules != [name] else "")
    return CheckResult(name=title, seconds=round(found.seconds, 6))


def _check(sandbox: Sandbox, check: Check) -> CheckResult | str:
    # A namespace of its own: a check must not pass on what the one before it left behind.
    code = f"exec(compile({check.code!r}, {check.name!r}, 'exec'), {{'__name__': '__main__'}})"
    found = _run(sandbox, code, check.timeout)
    if isinstance(found, str):
        return f"expected {_wanted(check)}, got {found}"
    if check.stdout is not None and found.stdout.rstrip() != check.stdout.rstrip():
        return f"expected {_wanted(check)}, got {_cut(found.stdout.rstrip())!r}"
    return CheckResult(name=check.name, seconds=round(found.seconds, 6))


def _tail(traceback: str) -> str:
    return "\n".join(traceback.splitlines()[-_TOLD_LINES:])


def _wanted(check: Check) -> str:
    return "no error" if check.stdout is None else repr(check.stdout.rstrip())


_T = TypeVar("_T")


def _answer(found: Execution | str, kind: type[_T]) -> _T | str:
    """The JSON value that code of ours has printed last; text says why there is none."""
    if isinstance(found, str):
        return found
    with contextlib.suppress(ValueError, IndexError):
        answer = json.loads(found.stdout.strip().splitlines()[-1])
        if isinstance(answer, kind):
            return answer
    return f"an answer that is none: {_cut(found.stdout)!r}"


def _cut(text: str) -> str:
    """Text short enough for an error message; the end says most."""
    if len(text) <= _TOLD_CHARACTERS:
        return text
    return f"… {len(text) - _TOLD_CHARACTERS} characters left out …{text[-_TOLD_CHARACTERS:]}"


def _run(sandbox: Sandbox, code: str, timeout: float) -> Execution | str:
    """Run code; text says how it went wrong."""
    try:
        found = sandbox.run(code, timeout=timeout)
    except SandboxError as error:
        return error.message
    if found.timed_out:
        return f"no end within {timeout:.0f} seconds"
    if found.error:
        return _cut(f"{found.error}\n{_tail(found.traceback)}".rstrip())
    return found


def first_use_pairs(first_use: Mapping[str, Mapping[str, float]]) -> Iterator[tuple[str, float]]:
    """(level, seconds of all imports together), coldest first."""
    for level in ("cold", "disk", "memory"):
        if level in first_use:
            yield level, sum(first_use[level].values())
