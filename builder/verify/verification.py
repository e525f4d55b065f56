"""Verify in real sandboxes that a build does what its spec promises. Nothing is recorded here."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from packaging.version import Version

from builder.errors import VerifyError
from builder.sandbox.session import Sandbox
from builder.spec import Check, Variant
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
    not_imported,
    run_checks,
    same_draws,
)

_LISTED = 5
_UNCHECKED = "nothing was checked: the spec has no Python packages and no [[verify]]"
_NOT_COMPARED = (
    "the random numbers of two sandboxes were not compared: the build is from a version that did"
    " not reseed sandboxes; rebuild it"
)
_NO_COPY = (
    "the random numbers of two sandboxes cannot be compared: there is no second copy of the warm"
    " interpreter"
)


class Promises(Protocol):
    """What a build must provide."""

    @property
    def variant(self) -> Variant:
        """Its warm-up, variables and checks."""

    @property
    def locked(self) -> Mapping[str, str]:
        """Its distributions, by version."""

    @property
    def runs_code(self) -> bool:
        """Whether its service is E2B's code service."""

    @property
    def loading_checks(self) -> Sequence[Check]:
        """The derived checks of its models and datasets."""

    @property
    def reseeds(self) -> bool:
        """Whether each copy of its warm interpreter is reseeded: only at level `memory`, and not in
        builds of earlier versions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verified:
    """A verified build, with measured times in seconds.

    `packages` are the locked ones as found in the sandbox, `other_packages` the others. `timings`
    are those of the first sandbox, from its creation on. `warnings` qualify the verification.
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
        """Return the measurements as in a record."""
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
    """Open sandboxes of `built`, measure times, and run every check.

    Raise `VerifyError` with each failed check, `SandboxError` if a sandbox does not start.
    """
    run = _Run(built=built, promises=promises, opener=opener, report=report, log=log)
    # A new build was sealed just now, and is compared after the checks.
    if built.reused and (changed := run.changes()):
        raise VerifyError(
            f"the build of `{built.name}` on `{built.target}` was modified after it was built:\n"
            + changed,
            hint=f"`template-builder build {built.name} --force --target {built.target}` rebuilds"
            " it from the spec",
        )
    verified, failures = run.verified()
    if changed := run.changes():
        failures.append(f"its checks modified the build itself:\n{changed}")
    if failures:
        for failure in failures:
            log.line(f"failed: {failure}")
        raise VerifyError(
            f"`{built.name}` was built on `{built.target}` but failed verification:\n"
            + "\n".join(f"  {failure}" for failure in failures)
            + "".join(f"\n  {built.target} does not provide {part}" for part in built.missing),
            hint=f"nothing was recorded; {log.shown_by} shows the details",
        )
    for text in verified.warnings:
        log.line(f"warning: {text}")
        report(Event(kind="warning", variant=run.variant.name, text=text))
    return verified


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    """A verification of a build."""

    built: Built
    promises: Promises
    opener: Opener
    report: Reporter
    log: Log

    @property
    def variant(self) -> Variant:
        return self.promises.variant

    def step(self, text: str) -> None:
        self.log.line(text)
        self.report(Event(kind="step", variant=self.variant.name, text=f"verify: {text}"))

    def changes(self) -> str:
        """Return the first lines about modifications of the build; empty if there are none."""
        changed = list(self.opener.changes(self.built.ref)) if self.opener.changes else []
        left = len(changed) - _LISTED
        more = [f"and {left} more"] if left > 0 else []
        return "\n".join(f"  {line}" for line in [*changed[:_LISTED], *more])

    def verified(self) -> tuple[Verified, list[str]]:
        """Return the build with its measurements and passed checks, and the failures."""
        variant, built, locked = self.variant, self.built, self.promises.locked
        first_use: dict[str, Mapping[str, float]] = {"cold": built.cold} if built.cold else {}
        warm_seconds = None
        drawn: Draws | None = frozenset()
        copies: Iterator[Sandbox] = iter(())
        with contextlib.ExitStack() as longer, contextlib.ExitStack() as stack:
            self.step("opening a sandbox")
            sandbox, seconds = self.opened(stack, self.opening(()))
            timings = sandbox.timings
            if variant.imports:
                self.step("first use of the warm-up imports")
                level = "cold" if variant.level == "none" else "disk"
                first_use[level] = first_use_seconds(sandbox, variant.imports)
            if variant.level == "memory":
                stack.close()  # an account may have no room for two
                opening = self.opening(variant.imports)
                sandbox, warm_seconds = self.opened(stack, opening)
                first_use["memory"] = first_use_seconds(sandbox, variant.imports)
                copies = longer.enter_context(contextlib.closing(self.copies(sandbox, opening)))
                self.step("drawing random numbers in a copy of the warm interpreter")
                drawn = next(map(draws, copies), drawn)  # without copies, nothing is shared
            packages = inventory(sandbox)
            results, failed = run_checks(
                sandbox,
                variant,
                packages,
                self.step,
                asks=self.opener.starts_services,
                derived=self.promises.loading_checks,
            )
            failures = [*_wrong_versions(packages, locked), *failed]
            stack.close()  # an account may have no room for two
            if not failures:
                failures += self.same_draws(drawn, copies)
        excluded = [*not_imported(variant), *self.not_asked()]
        warnings = ((_UNCHECKED, not results and not excluded), (_NOT_COMPARED, drawn is None))
        verified = Verified(
            built=built,
            checks=tuple(results),
            packages={name: version for name, version in packages.items() if name in locked},
            sandbox_seconds=seconds,
            timings=timings,
            warm_sandbox_seconds=warm_seconds,
            first_use=first_use,
            other_packages={n: version for n, version in packages.items() if n not in locked},
            warnings=(*(text for text, applies in warnings if applies), *excluded),
        )
        return verified, failures

    def not_asked(self) -> list[str]:
        """Return a line about checks that ask a service on a target that starts none, unless the
        build has one."""
        names = [f"`{check.name}`" for check in self.variant.checks if check.http]
        if self.opener.starts_services or not names or self.built.missing:
            return []
        line = f"not checked, since {self.built.target} does not start the service that they ask"
        return [f"{line}: {', '.join(names)}"]

    def opening(self, warm: Sequence[str]) -> Opening:
        return Opening(
            ref=self.built.ref,
            name=self.built.name,
            warm=warm,
            env=self.variant.env,
            cold=not warm and self.variant.level == "memory",
            has_code_service=self.promises.runs_code,
            network=self.variant.network,
            cpu=self.variant.cpu,
            memory_mb=self.variant.memory_mb,
        )

    def opened(self, stack: contextlib.ExitStack, opening: Opening) -> tuple[Sandbox, float]:
        start = time.perf_counter()
        sandbox = self.opener.open(opening)
        stack.callback(sandbox.close)
        return sandbox, round(time.perf_counter() - start, 6)

    def copies(self, first: Sandbox, opening: Opening) -> Generator[Sandbox, None, None]:
        """Open sandboxes whose interpreters are copies of the same warm one, one after the other.

        If all sandboxes are copies of the build, `first`, opened with `opening`, is one of them.
        """
        if self.opener.copies:
            yield from self.opener.copies(opening)
            return
        yield first
        with contextlib.closing(self.opener.open(opening)) as second:
            yield second

    def same_draws(self, drawn: Draws | None, copies: Iterator[Sandbox]) -> list[str]:
        """Report numbers that two copies of the warm interpreter both draw."""
        if drawn is None:
            return [NOT_WARMED] if self.promises.reseeds else []
        if not drawn:
            return []
        self.step("drawing random numbers in another copy")
        again = next(map(draws, copies), None)
        return [_NO_COPY] if again is None else same_draws(drawn, again)


def _wrong_versions(installed: Mapping[str, str], locked: Mapping[str, str]) -> list[str]:
    """Report locked distributions that are installed in another version."""
    return [
        f"`{name}` is installed in version {installed[name]} instead of {versions}"
        for name, versions in locked.items()
        # A lock may have several versions, for different Pythons.
        if name in installed and Version(installed[name]) not in map(Version, versions.split(" | "))
    ]


def first_use_pairs(first_use: Mapping[str, Mapping[str, float]]) -> Iterator[tuple[str, float]]:
    """Yield (level, seconds of all imports), coldest first."""
    for level in ("cold", "none", "disk", "memory"):
        if level in first_use:
            yield level, sum(first_use[level].values())
