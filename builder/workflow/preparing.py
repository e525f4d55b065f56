"""The stages of all variants together: select, lock, render, plan, precheck."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from builder.errors import (
    EngineUnavailableError,
    NetworkError,
    RevokedError,
    StaleLockError,
    StorageError,
    TargetUnavailableError,
    TemplateError,
)
from builder.lock.committed import read_committed
from builder.plan import Plan, Situation, StateQuery, TargetState, make_plan
from builder.project import PrecheckWhen, Project
from builder.registry import Registry
from builder.render import Rendered, undeliverable
from builder.render import render as render_variant
from builder.render import write as write_generated
from builder.spec import load_specs
from builder.system import processes
from builder.system.events import Event
from builder.system.files import ignored
from builder.system.logs import Log
from builder.workflow.base_variables import variables_of
from builder.workflow.context import Context
from builder.workflow.parents import after_parents, generations, with_children
from builder.workflow.selection import variants_called
from builder.workflow.values import Prepared

if TYPE_CHECKING:
    from builder.precheck import Checked
    from builder.precheck.engine import DockerEngine
    from builder.targets.protocol import Builder

_LOOKS_AT_A_TIME = 8
# Problems of the engine, not of the template: it cannot pull, its disk is full.
_OF_THE_ENGINE = (EngineUnavailableError, NetworkError, StorageError)


def select(prepared: Prepared, context: Context) -> Prepared:
    """Select the requested variants, and warn about commands whose result may change. Raise
    `SpecError`, `SelectionError`."""
    variants = variants_called(context.project, prepared.request.names)
    if prepared.request.with_children:
        variants = with_children(variants, load_specs(context.project.variants).variants)
    warnings: Iterable[tuple[str, str, list[str]]] = ()
    if any(stage.runs for variant in variants for stage in variant.stages):
        from builder.spec.changing import warnings_of

        warnings = warnings_of(variants)
    for place, text, names in warnings:
        only = names[0] if len(names) == 1 < len(variants) else None
        context.report(Event(kind="warning", variant=only, text=f"{place}: {text}"))
    return replace(prepared, variants=variants)


def lock(prepared: Prepared, context: Context) -> Prepared:
    """Lock each variant to the latest packages, or take the committed lock."""
    project, request, locks = context.project, prepared.request, dict(prepared.locks)
    unlocked = tuple(variant for variant in prepared.variants if variant.name not in locks)
    if request.frozen:
        locks |= read_committed(unlocked, project.generated)
        stale = {n: e for n, e in locks.items() if isinstance(e, StaleLockError)}
        unlocked = tuple(v for v in unlocked if request.lock_stale and v.name in stale)
        for variant in unlocked:
            text = f"{stale[variant.name].headline}; locking it now"
            context.report(Event(kind="note", text=text))
    if unlocked:
        from builder.lock.resolve import lock_latest

        context.report(Event(kind="step", text="resolving the latest packages"))
        locks |= lock_latest(
            unlocked,
            folder=project.variants,
            report=context.report,
            has_image=lambda reference: _engine_has(project, reference),
            image_variables=lambda image: variables_of(image, project),
            # With a target, the plan reports them where they matter: where Dockerfiles are built.
            bases_reported=context.settings is not None,
        )
    return replace(prepared, locks=locks)


def render(prepared: Prepared, _: Context) -> Prepared:
    """Render each variant that could be locked."""
    results = {
        variant.name: locked
        if isinstance(locked := prepared.locks[variant.name], TemplateError)
        else render_variant(variant, locked)
        for variant in prepared.variants
    }
    return replace(prepared, results=results)


def write(prepared: Prepared, context: Context) -> Prepared:
    """Write the rendered files to `generated/`, removing nothing. Raise `StorageError`."""
    write_generated(prepared.rendered, context.project.generated, all_variants=False)
    return prepared


def plan(prepared: Prepared, context: Context) -> Prepared:
    """Plan an action for each variant: compare it with the registry and the target.

    A target that is not available blocks every variant. Locks that fell back to another index block
    a build in the cloud unless the request or the project's settings accept them.
    """
    request, settings = prepared.request, context.settings
    assert settings
    recorded = context.registry.now()
    accepted = request.accept_fallback or context.project.accept_fallback
    if isinstance(context.target, TargetUnavailableError):
        blocked = {each.variant.name: context.target.message for each in prepared.rendered}
        situation = Situation(target=settings.name, blocked=blocked)
    else:
        accepted = accepted or context.target.this_machine
        unaccepted = {} if accepted else _fallbacks(prepared.rendered)
        situation = _situation(context.target, prepared, recorded, unaccepted)
    planned = make_plan(
        prepared.results,
        recorded.templates,
        situation,
        channel=request.channel,
        force=request.force,
        refresh_base=request.refresh_base,
        release=request.release,
        programs=settings.builds_dockerfile if request.steps is None else request.steps,
    )
    planned = after_parents(planned, prepared.variants)
    # What could not be locked is no error before its parent is built.
    awaited = {each.name for each in planned.variants if each.action != "blocked"}
    results = {
        name: result
        for name, result in prepared.results.items()
        if name not in awaited or not isinstance(result, TemplateError)
    }
    return replace(prepared, plan=planned, results=results)


def precheck(prepared: Prepared, context: Context) -> Prepared:
    """Pre-check the variants to build, or, without a plan, all of them; failures are not built.

    With `auto`, this needs an engine that answers and a target that builds from the Dockerfile, and
    problems of the engine itself are only warnings.
    """
    planned, when, renderings = prepared.plan, PrecheckWhen.always, prepared.rendered
    if planned:
        _warn_of_bases(planned, prepared.request.refresh_base, context)
        when = prepared.request.precheck or context.project.precheck.when
        to_build = {variant.name for variant in planned.variants if variant.action == "build"}
        renderings = [each for each in renderings if each.variant.name in to_build]
        if to_build and when is not PrecheckWhen.never:
            prepared = _reach_engine_for(when, prepared, context)
        if not prepared.engine:
            return prepared
    assert prepared.engine
    force = prepared.request.force and planned is None
    ignored(context.project.state)
    checked: dict[str, Checked] = {}
    failed: dict[str, TemplateError] = {}
    for rendering in _parents_first(renderings):
        name = rendering.variant.name
        if why := prepared.engine.lacks_parent(rendering):
            text = f"not pre-checked with Docker: {why}"
            context.report(Event(kind="note", variant=name, text=text))
            continue
        try:
            checked[name] = _checked(rendering, prepared.engine, context, force=force)
        except TemplateError as error:
            if when is PrecheckWhen.auto and isinstance(error, _OF_THE_ENGINE):
                text = f"not pre-checked with Docker: {': '.join(error.message.splitlines()[:2])}"
                context.report(Event(kind="warning", variant=name, text=text))
            else:
                failed[name] = error
                context.report(Event(kind="failed", variant=name, text=error.headline))
    return replace(prepared, results={**prepared.results, **failed}, checked=checked)


def _parents_first(renderings: Sequence[Rendered]) -> list[Rendered]:
    by_name = {rendering.variant.name: rendering for rendering in renderings}
    groups = generations([rendering.variant for rendering in renderings])
    return [by_name[variant.name] for group in groups for variant in group]


def _reach_engine_for(when: PrecheckWhen, prepared: Prepared, context: Context) -> Prepared:
    """Connect to the engine, unless `auto` allows to do without. Raise `EngineUnavailableError`."""
    if when is PrecheckWhen.auto and not context.connected().steps_cached:
        return prepared  # the target does not build from the Dockerfile
    try:
        return reach_engine(prepared, context)
    except EngineUnavailableError as error:
        if when is PrecheckWhen.always:
            raise
        text = f"not pre-checked: {error.message}; {error.hint}"
        context.report(Event(kind="note", text=text))
        return prepared


def reach_engine(prepared: Prepared, context: Context) -> Prepared:
    """Connect to the Docker engine for pre-checks. Raise `EngineUnavailableError`."""
    from builder.precheck import connect_engine

    engine = connect_engine(context.project.precheck)
    engine.tidy()
    return replace(prepared, engine=engine)


def _engine_has(project: Project, reference: str) -> bool:
    """Return whether this machine has a Docker engine with the image."""
    from builder.precheck import connect_engine

    try:
        engine = connect_engine(project.precheck)
    except EngineUnavailableError:
        return False
    with contextlib.closing(engine):
        return engine.has_image(reference)


def _checked(rendered: Rendered, engine: DockerEngine, context: Context, *, force: bool) -> Checked:
    from builder.precheck import Precheck

    state, name = context.project.state, rendered.variant.name
    with Log(state / "logs" / name, target="docker", kind="precheck") as log:
        checked = Precheck(
            rendered=rendered,
            engine=engine,
            folder=state / "precheck",
            settings=context.project.precheck,
            report=context.report,
            log=log,
        ).run(force=force)
    context.report(Event(kind="done", variant=name, text="pre-checked"))
    return checked


def _warn_of_bases(planned: Plan, refresh_base: bool, context: Context) -> None:
    """Warn about base images that the target caches without a digest."""
    users: dict[str, list[str]] = {}
    for variant in planned.variants:
        if variant.action != "blocked" and variant.stale_base:
            users.setdefault(variant.stale_base, []).append(variant.name)
    for text, names in users.items():
        only = names[0] if len(names) == 1 < len(planned.variants) else None
        context.report(Event(kind="warning", variant=only, text=text))
    if refresh_base and not any(variant.forced for variant in planned.variants):
        text = (
            f"--refresh-base has no effect: {planned.target} caches no base image by its name alone"
        )
        context.report(Event(kind="note", text=text))


def _fallbacks(rendered: Sequence[Rendered]) -> dict[str, str]:
    """Return variant → the cost of a build whose lock fell back to another index."""
    return {
        rendering.variant.name: "; ".join(
            f"{text}: {cost}" for text, cost in rendering.lock.fallbacks
        )
        + "; run `template-builder lock` where that index can be reached, or accept it with"
        " `build --accept-fallback` or `accept-fallback = true` in [tool.template-builder]"
        for rendering in rendered
        if rendering.lock.fallbacks
    }


def _situation(
    target: Builder, prepared: Prepared, recorded: Registry, unaccepted: Mapping[str, str]
) -> Situation:
    rendered = {rendering.variant.name: rendering for rendering in prepared.rendered}

    def look(name: str) -> TargetState:
        entry, channel = recorded.contents.entry(name, target.name), prepared.request.channel
        return target.look(StateQuery(rendered=rendered[name], recorded=entry, channel=channel))

    if target.this_machine:  # a thread takes longer than a look
        states = {name: look(name) for name in rendered}
    else:
        states = _side_by_side(look, rendered)
    reasons = {
        # A build does not need its parent's any more.
        name: (
            None
            if rendering.variant.parent and states[name].present
            else target.blocked(rendering.variant)
        )
        or _contains_revoked(recorded, rendering)
        or (target.steps_cached and undeliverable(rendering.fetched, rendering.variant.memory_mb))
        for name, rendering in rendered.items()
    }
    return Situation(
        target=target.name,
        present=frozenset(rendered[name].digest for name in states if states[name].present),
        drift={name: state.drift for name, state in states.items() if state.drift},
        usable={name: state.usable for name, state in states.items() if state.usable is not None},
        unsupported={n: target.unsupported(r.variant) for n, r in rendered.items()},
        blocked={name: reason for name, reason in reasons.items() if reason},
        unaccepted=unaccepted,
        steps_cached=target.steps_cached,
        content_addressed=target.content_addressed,
        this_machine=target.this_machine,
    )


def _side_by_side(
    look: Callable[[str], TargetState], names: Collection[str]
) -> dict[str, TargetState]:
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(max_workers=_LOOKS_AT_A_TIME)
    try:
        with processes.interruptible():
            return dict(zip(names, pool.map(look, names), strict=True))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _contains_revoked(recorded: Registry, rendered: Rendered) -> str | None:
    """Return why packages of the lock must not be built."""
    if not (recorded.contents.revocations or rendered.variant.parent):
        return None
    from builder.record import check_contents, contents_of

    try:
        check_contents(recorded.contents, contents_of(rendered), rendered.variant.name)
    except RevokedError as error:
        return f"{error.message}; {error.hint}"
    return None
