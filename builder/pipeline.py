"""The sequence, in one place: spec → lock → render → plan → build → verify → record.

Variants go through it side by side, each on its own: one that fails stops none of the others. It
reports events and returns values; it never prints.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder import lock, plan, precheck, processes, record, registry, render, spec, verify
from builder.errors import (
    BlockedError,
    BuildError,
    InterruptedRunError,
    NotOnThisMachineError,
    SelectionError,
    StaleLockError,
    TargetUnavailableError,
    TemplateError,
    did_you_mean,
    from_os_error,
)
from builder.events import Event, Reporter
from builder.logs import Log
from builder.project import Project
from builder.targets import Target

__all__ = [
    "Outcome",
    "build",
    "make_plan",
    "precheck_all",
    "prepare",
    "read_registry",
    "reverify",
    "select",
]

Prepared = Mapping[str, render.Rendered | TemplateError]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How one variant ended: `fields` is its record, `error` why there is none."""

    name: str
    action: str
    ref: str | None = None
    digest: str | None = None
    seconds: float = 0.0
    fields: Mapping[str, Any] | None = None
    error: TemplateError | None = None

    def to_json(self) -> dict[str, Any]:
        """The outcome as plain values."""
        return {
            "name": self.name,
            "action": self.action,
            "ref": self.ref,
            "digest": self.digest,
            "seconds": round(self.seconds, 3),
            "record": dict(self.fields) if self.fields else None,
            "error": self.error.to_json() if self.error else None,
        }


def select(project: Project, names: Sequence[str]) -> tuple[spec.Variant, ...]:
    """The variants called by name, by file name or by path; all of them for no names.

    Raises `SpecError`, `SelectionError`.
    """
    variants = spec.load_variants(project.variants)
    if not names:
        return variants
    known = {variant.name: variant for variant in variants}
    paths = {(project.variants / f"{v.stem}.toml").resolve(): v for v in variants}
    chosen: dict[str, spec.Variant] = {}
    for name in names:
        found = known.get(name)
        if found is None and name.endswith(".toml"):
            found = paths.get(Path(name).resolve()) or paths.get((project.root / name).resolve())
        if found is None:
            abstract = Path(name).name.startswith("_") and name.endswith(".toml")
            raise SelectionError(
                f"`{name}` is a shared stage and never built alone"
                if abstract
                else f"no variant is called `{name}`; there are: {', '.join(known)}",
                hint=did_you_mean(name, known),
            )
        chosen[found.name] = found
    return tuple(chosen.values())


def prepare(
    project: Project, variants: Sequence[spec.Variant], *, frozen: bool, report: Reporter
) -> Prepared:
    """Lock and render: name → what was rendered, or why it could not be.

    `frozen` takes the committed locks and never touches the network.
    """
    if frozen:
        locks = lock.read_committed(variants, project.generated)
    else:
        report(Event(kind="step", text="resolving the latest packages"))
        locks = lock.lock_latest(variants, folder=project.variants, report=report)
    prepared: dict[str, render.Rendered | TemplateError] = {}
    for variant in variants:
        locked = locks[variant.name]
        prepared[variant.name] = (
            locked if isinstance(locked, TemplateError) else render.render(variant, locked)
        )
    return prepared


def read_registry(project: Project) -> registry.Registry:
    """The project's registry; empty where no file is yet. Raises `RegistryError`."""
    if project.registry.exists():
        return registry.load(project.registry).checked()
    data = {"version": registry.VERSION, "templates": {}}
    return registry.Registry(data, os.fspath(project.registry))


def make_plan(
    project: Project,
    prepared: Prepared,
    target: Target | TargetUnavailableError,
    *,
    name: str,
    channel: str,
    force: bool,
    programs: bool = True,
) -> plan.Plan:
    """Compare what was prepared with the registry and the target called `name`.

    Without `programs`, the plan holds no steps of E2B, which takes less time. A target that is not
    available blocks every variant, and the plan says why.
    """
    rendered = [one for one in prepared.values() if isinstance(one, render.Rendered)]
    if isinstance(target, TargetUnavailableError):
        blocked = {one.variant.name: target.message for one in rendered}
        situation = plan.Situation(target=name, blocked=blocked)
    else:
        reasons = {one.variant.name: target.blocked(one.variant) for one in rendered}
        situation = plan.Situation(
            target=name,
            present=target.present(one.digest for one in rendered),
            lacking={one.variant.name: target.lacking(one.variant) for one in rendered},
            blocked={variant: reason for variant, reason in reasons.items() if reason},
        )
    templates = read_registry(project).templates
    return plan.make_plan(
        prepared, templates, situation, channel=channel, force=force, programs=programs
    )


def precheck_all(
    project: Project,
    prepared: Prepared,
    engine: precheck.Engine,
    *,
    force: bool,
    report: Reporter,
) -> dict[str, precheck.Checked | TemplateError]:
    """Write `generated/` and pre-check what was rendered, one after the other: name → what was
    found, or why it is not good. One that fails stops none of the others."""
    rendered = [one for one in prepared.values() if isinstance(one, render.Rendered)]
    render.write(rendered, project.generated, all_variants=False)
    found: dict[str, precheck.Checked | TemplateError] = {
        name: one for name, one in prepared.items() if isinstance(one, TemplateError)
    }
    for one in rendered:
        name = one.variant.name
        try:
            with Log(project.state / "logs" / name, target="precheck") as log:
                found[name] = precheck.precheck(
                    one,
                    engine,
                    folder=project.state / "precheck",
                    settings=project.precheck,
                    force=force,
                    report=report,
                    log=log,
                )
            report(Event(kind="done", variant=name, text="pre-checked"))
        except TemplateError as error:
            found[name] = error
            report(Event(kind="failed", variant=name, text=error.message.splitlines()[0]))
    return found


def build(
    project: Project,
    prepared: Prepared,
    planned: plan.Plan,
    target: Target,
    *,
    force: bool,
    jobs: int,
    all_variants: bool,
    report: Reporter,
) -> list[Outcome]:
    """Write `generated/`, then carry the plan out, `jobs` variants at a time.

    The outcomes are in the plan's order. Raises `StorageError` before anything is built when
    `generated/` cannot be written, and passes on an interrupt after everything was cleaned up.
    """
    rendered = [one for one in prepared.values() if isinstance(one, render.Rendered)]
    complete = all_variants and len(rendered) == len(prepared)
    render.write(rendered, project.generated, all_variants=complete)
    target.tidy()
    outcomes: dict[str, Outcome] = {}
    with ThreadPoolExecutor(max_workers=max(1, jobs)) as pool, processes.interruptible():
        running = {
            pool.submit(
                _carry_out, project, one, prepared[one.name], planned, target, force, report
            )
            for one in planned.variants
        }
        try:
            for future in as_completed(running):
                outcome = future.result()
                outcomes[outcome.name] = outcome
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [outcomes[one.name] for one in planned.variants]


def reverify(
    project: Project,
    prepared: render.Rendered,
    found: registry.Record,
    target: Target,
    *,
    report: Reporter,
) -> verify.Verified:
    """Run the checks of a recorded build again; nothing is recorded.

    Raises `VerifyError`, `SandboxError`, `NotOnThisMachineError`, and `StaleLockError` when the
    spec is not the one that was built.
    """
    name = prepared.variant.name
    again = f"`template-builder build {name} --target {found.target}` makes it anew"
    if found.digest != prepared.digest:
        raise StaleLockError(
            f"the recorded build of `{name}` on `{found.target}` is not of this spec and lock:"
            f" {found.digest or 'adopted'}, not {prepared.digest}",
            hint=again,
        )
    if not target.present([prepared.digest]):
        raise NotOnThisMachineError(f"the build `{found.ref}` is not on this machine", hint=again)
    with Log(project.state / "logs" / name, target=found.target) as log:
        built = target.build(prepared, force=False, report=report, log=log)
        return verify.verify(built, prepared, target, report=report, log=log)


def _carry_out(
    project: Project,
    planned: plan.PlannedVariant,
    prepared: render.Rendered | TemplateError,
    whole: plan.Plan,
    target: Target,
    force: bool,
    report: Reporter,
) -> Outcome:
    name, start = planned.name, time.perf_counter()
    try:
        action, ref, fields = _attempt(project, planned, prepared, whole, target, force, report)
    except OSError as error:
        failure: TemplateError = from_os_error(error, f"building `{name}`")
    except TemplateError as error:
        failure = error
    except Exception as error:  # noqa: BLE001 - one variant's surprise must not stop the others
        failure = BuildError(
            f"building `{name}` ended in an error that this program did not foresee:"
            f" {type(error).__name__}: {error}",
            hint=f"please report it, with what `template-builder logs {name}` says",
        )
    else:
        seconds = time.perf_counter() - start
        report(Event(kind="done", variant=name, text=action, seconds=seconds))
        return Outcome(
            name=name,
            action=action,
            ref=ref,
            digest=planned.digest,
            seconds=seconds,
            fields=fields,
        )
    if processes.stopped():
        failure = InterruptedRunError("interrupted")
    report(Event(kind="failed", variant=name, text=failure.message.splitlines()[0]))
    return Outcome(
        name=name,
        action="failed",
        digest=planned.digest,
        seconds=time.perf_counter() - start,
        error=failure,
    )


def _attempt(
    project: Project,
    planned: plan.PlannedVariant,
    prepared: render.Rendered | TemplateError,
    whole: plan.Plan,
    target: Target,
    force: bool,
    report: Reporter,
) -> tuple[str, str, Mapping[str, Any]]:
    """Do what was planned: what was done, the ref that the channel points at now, its record."""
    name = planned.name
    if isinstance(prepared, TemplateError):
        raise prepared
    if planned.action == "blocked":
        raise BlockedError(f"`{name}`: {planned.reasons[0]}")
    if planned.action == "build":
        with Log(project.state / "logs" / name, target=whole.target) as log:
            for reason in planned.reasons:
                log.line(f"because: {reason}")
            built = target.build(prepared, force=force, report=report, log=log)
            verified = verify.verify(built, prepared, target, report=report, log=log)
            if not target.present([prepared.digest]):
                raise BuildError(
                    f"the build of `{name}` is not there any more after its checks",
                    hint="a check must not remove the environment that it runs in",
                )
            fields = record.record(project.registry, verified, prepared, channel=whole.channel)
            log.line(f"recorded {built.ref}")
        return "built", built.ref, fields
    ref = planned.retag or planned.ref
    assert ref is not None
    if planned.action == "retag":
        record.point_channel(
            project.registry, name=name, target=whole.target, channel=whole.channel, ref=ref
        )
    recorded = read_registry(project).templates[name][whole.target]["builds"]
    return "retagged" if planned.action == "retag" else "skipped", ref, recorded[ref]
