"""Does the build do what the spec promises? Asked in real sandboxes of that very build.

Smoke tests come from what the distributions themselves say they install. Nothing is recorded here.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from packaging.version import Version

from builder.errors import VerifyError
from builder.sandbox.session import Sandbox
from builder.spec import Variant
from builder.system.events import Event, Reporter
from builder.system.logs import Log
from builder.targets.protocol import Built, Opener, Opening
from builder.verify.checks import (
    NOT_WARMED,
    CheckResult,
    Draws,
    draws,
    first_use_seconds,
    inventory,
    run_checks,
    same_draws,
)

_LISTED = 5
_UNCHECKED = "nothing was checked: the spec has no Python packages and no [[verify]]"
_NOT_COMPARED = (
    "the random numbers of two sandboxes were not compared: the build is of a version that gave"
    " sandboxes no seeds of their own; build it anew"
)
_NO_COPY = (
    "the random numbers of two sandboxes cannot be compared: there is no second copy of the warm"
    " interpreter"
)


class Promises(Protocol):
    """What a build is to be."""

    @property
    def variant(self) -> Variant:
        """What it is to do: its warm-up, its variables, its checks."""

    @property
    def locked(self) -> Mapping[str, str]:
        """The distributions that it is to have."""

    @property
    def reseeds(self) -> bool:
        """Whether its image gives each copy of the warm interpreter seeds of its own: not so at
        other levels than `memory`, nor in builds of earlier versions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verified:
    """A build that keeps its promises, with what was measured on the way (seconds).

    `packages` are the locked ones as found in the sandbox, `other_packages` what else is there.
    `timings` are those of the first sandbox itself, from its creation on. `warnings` say what must
    be known of how it was verified.
    """

    built: Built
    checks: tuple[CheckResult, ...]
    packages: Mapping[str, str]
    sandbox_seconds: float
    timings: Mapping[str, float] = field(default_factory=dict)
    warm_sandbox_seconds: float | None = None
    first_use: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    other_packages: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def measures(self) -> dict[str, Any]:
        """What was measured, as a record has it."""
        return {
            **({} if self.built.size is None else {"size_bytes": self.built.size}),
            "seconds": {
                "build": self.built.seconds,
                **self.timings,
                "sandbox": self.sandbox_seconds,
                "warm_sandbox": self.warm_sandbox_seconds,
                "first_use": {level: dict(times) for level, times in self.first_use.items()},
            },
        }


def verify(
    built: Built, promises: Promises, opener: Opener, *, report: Reporter, log: Log
) -> Verified:
    """Open sandboxes of `built`, take the times, run every check.

    Raises `VerifyError` naming each failed check with what was expected and found, `SandboxError`
    when a sandbox does not come up.
    """
    variant = promises.variant

    def step(text: str) -> None:
        log.line(text)
        report(Event(kind="step", variant=variant.name, text=f"verify: {text}"))

    if opener.changes and (changed := opener.changes(built.ref)):
        raise VerifyError(
            f"the build of `{built.name}` on `{built.target}` was changed since it was made:\n"
            + _listed(changed),
            hint=f"`template-builder build {built.name} --force --target {built.target}` makes it"
            " anew from the spec",
        )
    first_use: dict[str, Mapping[str, float]] = {"cold": built.cold} if built.cold else {}
    warm_seconds = None
    drawn: Draws | None = frozenset()
    copies: Iterator[Sandbox] = iter(())
    with contextlib.ExitStack() as longer, contextlib.ExitStack() as stack:
        step("opening a sandbox")
        sandbox, seconds = _opened(stack, opener, built, (), variant)
        timings = sandbox.timings
        if variant.imports:
            step("first use of the warm-up imports")
            level = "cold" if variant.level == "none" else "disk"
            first_use[level] = first_use_seconds(sandbox, variant.imports)
        if variant.level == "memory":
            stack.close()  # an account may have no room for two
            sandbox, warm_seconds = _opened(stack, opener, built, variant.imports, variant)
            first_use["memory"] = first_use_seconds(sandbox, variant.imports)
            copies = longer.enter_context(
                contextlib.closing(
                    _copies(opener, sandbox, _opening(built, variant, variant.imports))
                )
            )
            step("drawing random numbers in a copy of the warm interpreter")
            drawn = next(map(draws, copies), drawn)  # where none can be made, nothing is shared
        packages = inventory(sandbox)
        failures = _wrong_versions(packages, promises.locked)
        results, failed = run_checks(sandbox, variant, packages, step)
        failures += failed
        stack.close()  # an account may have no room for two
        if not failures:
            failures += _same_draws(drawn, copies, promises, step)
    if opener.changes and (changed := opener.changes(built.ref)):
        failures.append(f"its checks have changed the build itself:\n{_listed(changed)}")
    if failures:
        for failure in failures:
            log.line(f"failed: {failure}")
        raise VerifyError(
            f"`{built.name}` was built on `{built.target}` but is not what it promises:\n"
            + "\n".join(f"  {failure}" for failure in failures)
            + "".join(f"\n  {built.target} does not provide {what}" for what in built.missing),
            hint=f"nothing was recorded; {log.shown_by} has the whole story",
        )
    warnings: tuple[str, ...] = () if results else (_UNCHECKED,)
    warnings += () if drawn is not None else (_NOT_COMPARED,)
    for text in warnings:
        log.line(f"warning: {text}")
        report(Event(kind="warning", variant=variant.name, text=text))
    locked = promises.locked
    return Verified(
        built=built,
        checks=tuple(results),
        packages={name: version for name, version in packages.items() if name in locked},
        sandbox_seconds=seconds,
        timings=timings,
        warm_sandbox_seconds=warm_seconds,
        first_use=first_use,
        other_packages={n: version for n, version in packages.items() if n not in locked},
        warnings=warnings,
    )


def _same_draws(
    drawn: Draws | None, copies: Iterator[Sandbox], promises: Promises, step: Callable[[str], None]
) -> list[str]:
    """What is wrong with the numbers that were drawn in a copy of the warm interpreter, beside
    those of another copy."""
    if drawn is None:
        return [NOT_WARMED] if promises.reseeds else []
    if not drawn:
        return []
    step("drawing random numbers in another copy")
    again = next(map(draws, copies), None)
    return [_NO_COPY] if again is None else same_draws(drawn, again)


def _wrong_versions(installed: Mapping[str, str], locked: Mapping[str, str]) -> list[str]:
    """The locked distributions that are there in another version, in words."""
    return [
        f"`{name}` is there in version {installed[name]}, and not in {versions}"
        for name, versions in locked.items()
        # There are several where a lock has another one for older Pythons.
        if name in installed and Version(installed[name]) not in map(Version, versions.split(" | "))
    ]


def _listed(changed: Sequence[str]) -> str:
    """The first of many lines."""
    left = len(changed) - _LISTED
    more = [f"and {left} more"] if left > 0 else []
    return "\n".join(f"  {line}" for line in [*changed[:_LISTED], *more])


def _opened(
    stack: contextlib.ExitStack,
    opener: Opener,
    built: Built,
    warm: Sequence[str],
    variant: Variant,
) -> tuple[Sandbox, float]:
    start = time.perf_counter()
    sandbox = opener.open(_opening(built, variant, warm))
    stack.callback(sandbox.close)
    return sandbox, round(time.perf_counter() - start, 6)


def _opening(built: Built, variant: Variant, warm: Sequence[str]) -> Opening:
    return Opening(
        ref=built.ref,
        name=built.name,
        warm=warm,
        env=variant.env,
        cold=not warm and variant.level == "memory",
    )


def _copies(opener: Opener, first: Sandbox, opening: Opening) -> Generator[Sandbox, None, None]:
    """Sandboxes whose interpreters are copies of the same warm one, one after the other; `first`
    was opened as `opening` says, and is one of them where all are copies of the build."""
    if opener.copies:
        yield from opener.copies(opening)
        return
    yield first
    with contextlib.closing(opener.open(opening)) as second:
        yield second


def first_use_pairs(first_use: Mapping[str, Mapping[str, float]]) -> Iterator[tuple[str, float]]:
    """(level, seconds of all imports together), coldest first."""
    for level in ("cold", "none", "disk", "memory"):
        if level in first_use:
            yield level, sum(first_use[level].values())
