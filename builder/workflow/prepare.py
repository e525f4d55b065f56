"""Up to the plan, and what looks at builds without making any."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from builder import lock, plan, precheck, record, registry, render, spec
from builder.errors import (
    EngineUnavailableError,
    RevokedError,
    TargetUnavailableError,
    TemplateError,
)
from builder.lock import committed
from builder.project import Project
from builder.registry.object_store import NoRegistryError
from builder.system import processes
from builder.system.events import Event, Reporter
from builder.system.files import ignored
from builder.system.logs import Log
from builder.targets.protocol import Builder, StateQuery

__all__ = [
    "Prepared",
    "make_plan",
    "precheck_all",
    "prepare",
    "read_registry",
]

_LOOKS_AT_A_TIME = 8

Prepared = Mapping[str, render.Rendered | TemplateError]


def prepare(
    project: Project, variants: Sequence[spec.Variant], *, frozen: bool, report: Reporter
) -> Prepared:
    """Lock and render: name → what was rendered, or why it could not be.

    `frozen` takes the committed locks and never touches the network.
    """
    if frozen:
        locks = committed.read_committed(variants, project.generated)
    else:
        report(Event(kind="step", text="resolving the latest packages"))
        locks = lock.lock_latest(
            variants,
            folder=project.variants,
            report=report,
            has_image=lambda reference: _engine_has(project, reference),
        )
    prepared: dict[str, render.Rendered | TemplateError] = {}
    for variant in variants:
        locked = locks[variant.name]
        prepared[variant.name] = (
            locked if isinstance(locked, TemplateError) else render.render(variant, locked)
        )
    return prepared


def _engine_has(project: Project, reference: str) -> bool:
    """Whether the Docker engine of this machine, where one answers, has an image."""
    from builder.precheck.engine import DockerEngine

    try:
        engine = DockerEngine(project.precheck)
    except EngineUnavailableError:
        return False
    with contextlib.closing(engine):
        return engine.has_image(reference)


def read_registry(project: Project) -> registry.Registry:
    """The project's registry; empty where there is none yet. Raises `RegistryError`."""
    location = project.registry
    if not registry.is_url(location) and not os.path.lexists(location):
        return registry.empty(location)
    try:
        return registry.load(location).checked()
    except NoRegistryError:
        return registry.empty(location)


def make_plan(
    project: Project,
    prepared: Prepared,
    target: Builder | TargetUnavailableError,
    *,
    name: str,
    channel: str,
    force: bool,
    refresh_base: bool = False,
    release: bool = False,
    programs: bool = True,
    accept_fallback: bool = False,
) -> plan.Plan:
    """Compare what was prepared with the registry and the target called `name`.

    Without `programs`, the plan holds no steps of E2B, which takes less time. A target that is not
    available blocks every variant, and the plan says why. Builds in the cloud of locks that fell
    back to another index are blocked, unless `accept_fallback` or the project's settings say so.
    """
    rendered = [one for one in prepared.values() if isinstance(one, render.Rendered)]
    found = read_registry(project)
    templates = found.templates
    if isinstance(target, TargetUnavailableError):
        blocked = {one.variant.name: target.message for one in rendered}
        situation = plan.Situation(target=name, blocked=blocked)
    else:
        situation = _situation(target, rendered, found, name, channel)
        if not (target.this_machine or accept_fallback or project.accept_fallback):
            situation = dataclasses.replace(situation, unaccepted=_fallbacks(rendered))
    return plan.make_plan(
        prepared,
        templates,
        situation,
        channel=channel,
        force=force,
        refresh_base=refresh_base,
        release=release,
        programs=programs,
    )


def _fallbacks(rendered: Sequence[render.Rendered]) -> dict[str, str]:
    """Variant → what a build of its lock costs that the spec did not ask for."""
    return {
        one.variant.name: "; ".join(f"{text}: {cost}" for text, cost in one.lock.fallbacks)
        + "; run `template-builder lock` where that index can be reached, or accept it with"
        " `build --accept-fallback` or `accept-fallback = true` in [tool.template-builder]"
        for one in rendered
        if one.lock.fallbacks
    }


def _situation(
    target: Builder,
    rendered: Sequence[render.Rendered],
    recorded: registry.Registry,
    name: str,
    channel: str,
) -> plan.Situation:
    templates = recorded.templates

    def look(one: render.Rendered) -> plan.TargetState:
        entry = templates.get(one.variant.name, {}).get(name, {})
        return target.look(StateQuery(rendered=one, recorded=entry, channel=channel))

    pool = ThreadPoolExecutor(max_workers=_LOOKS_AT_A_TIME)
    try:
        with processes.interruptible():
            found = list(pool.map(look, rendered))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    names = [one.variant.name for one in rendered]
    looks = dict(zip(names, found, strict=True))
    reasons = {
        one.variant.name: target.blocked(one.variant) or _contains_revoked(recorded, one)
        for one in rendered
    }
    return plan.Situation(
        target=name,
        present=frozenset(one.digest for one in rendered if looks[one.variant.name].present),
        drift={variant: seen.drift for variant, seen in looks.items() if seen.drift},
        usable={variant: seen.usable for variant, seen in looks.items() if seen.usable is not None},
        unsupported={one.variant.name: target.unsupported(one.variant) for one in rendered},
        blocked={variant: reason for variant, reason in reasons.items() if reason},
        steps_cached=target.steps_cached,
        content_addressed=target.content_addressed,
        this_machine=target.this_machine,
    )


def _contains_revoked(recorded: registry.Registry, rendered: render.Rendered) -> str | None:
    """Why what the lock holds must not be built."""
    if not recorded.data.get("revocations"):
        return None
    try:
        record.check_contents(recorded.data, record.contents_of(rendered), rendered.variant.name)
    except RevokedError as error:
        return f"{error.message}; {error.hint}"
    return None


def precheck_all(
    project: Project,
    prepared: Prepared,
    engine: precheck.Engine,
    *,
    force: bool,
    tolerated: tuple[type[TemplateError], ...] = (),
    report: Reporter,
) -> dict[str, precheck.Checked | TemplateError]:
    """Pre-check what was rendered, one after the other: name → what was found, or why it is not
    good. One that fails stops none of the others; what is `tolerated` is reported as a warning."""
    rendered = [one for one in prepared.values() if isinstance(one, render.Rendered)]
    ignored(project.state)
    found: dict[str, precheck.Checked | TemplateError] = {
        name: one for name, one in prepared.items() if isinstance(one, TemplateError)
    }
    for one in rendered:
        name = one.variant.name
        try:
            with Log(project.state / "logs" / name, target="docker", kind="precheck") as log:
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
            first, *others = error.message.splitlines()
            if isinstance(error, tolerated):
                text = f"not pre-checked with Docker: {': '.join([first, *others[:1]])}"
                report(Event(kind="warning", variant=name, text=text))
            else:
                report(Event(kind="failed", variant=name, text=error.headline))
    return found
