"""Templates that are from other templates: look up what they are from, and put them in order."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from builder.errors import BlockedError, TemplateError
from builder.lock.committed import committed_parent
from builder.plan import Plan, PlannedVariant, Reason
from builder.registry import Registry, references
from builder.spec import Parent, Variant, defaults, inherit, load_specs, place_of
from builder.workflow.context import Context
from builder.workflow.values import Prepared

if TYPE_CHECKING:
    from builder.registry.model import Build

# An ID of E2B, alone or with that of a build.
_E2B_ID = re.compile(r"[a-z0-9]{20}(:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})?")


def look_up_parents(prepared: Prepared, context: Context) -> Prepared:
    """Look up the build that each variant with `from-template` is from, unless its committed lock
    is to be used and names one on this target."""
    if not any(variant.from_template for variant in prepared.variants):
        return prepared
    target = context.settings.name if context.settings else None
    variants, locks = [], dict(prepared.locks)
    for variant in prepared.variants:
        if not variant.from_template:
            variants.append(variant)
            continue
        try:
            parent = None
            if prepared.request.frozen:
                parent = committed_parent(variant.name, context.project.generated)
            if parent is None or not _is_of(parent, variant, target):
                parent = _recorded(variant, context, target)
            variants.append(inherit(variant, parent))
        except TemplateError as error:
            locks[variant.name] = error
            variants.append(variant)
    return replace(prepared, variants=tuple(variants), locks=locks)


def _is_of(parent: Parent, variant: Variant, target: str | None) -> bool:
    return parent.reference == variant.from_template and target in (None, parent.target)


def _recorded(variant: Variant, context: Context, target: str | None) -> Parent:
    """Return the build that `from-template` means now. Raise `BlockedError`."""
    reference, recorded = variant.from_template, context.registry.now()
    stage = variant.stages[0]
    assert stage.path
    key = ("from-template",)
    place = f"`from-template` ({place_of(stage.path.parent, stage.source, key)})"
    try:
        name, build = references.split(reference, recorded)
        record = references.find_build(recorded, name, build, target=target)
    except (TemplateError, LookupError) as error:
        on_e2b = context.settings is None or context.settings.kind == "e2b"
        if on_e2b and _E2B_ID.fullmatch(reference) and not _is_known(reference, recorded):
            return Parent(reference=reference, target=target or "e2b", ref=reference)
        why = _never_built(variant, context, target) or _with_hint(error)
        raise BlockedError(f"{place}: {why}") from error
    known = record.build
    if known.is_revoked:
        raise BlockedError(
            f"{place}: the build {record.ref} of `{name}` on {record.target} is"
            f" {known.revocation}; `template-builder build {name} --target {record.target}` makes"
            " another one if its spec changed, and `template-builder rollback` goes back to one"
        )
    parent = _parent_of(variant, name, record.target, record.ref, known)
    if differs := _service_differs(variant, known):
        raise BlockedError(f"{place}: {differs}")
    return parent


def _never_built(variant: Variant, context: Context, target: str | None) -> str | None:
    """Return what to do if the parent is a spec of the project without a build on the target."""
    name, on = str(variant.parent_name), f" on {target}" if target else ""
    entries = context.registry.now().templates.get(name, {})
    if any(entry.builds for key, entry in entries.items() if target in (None, key)):
        return None
    if name not in {each.name for each in load_specs(context.project.variants).variants}:
        return None
    option = f" --target {target}" if target else ""
    return (
        f"`{name}` has no build{on}; `template-builder build {name} --with-children{option}` builds"
        " it, and then what is from it"
    )


def _parent_of(variant: Variant, name: str, target: str, ref: str, build: Build) -> Parent:
    return Parent(
        reference=variant.from_template,
        target=target,
        ref=ref,
        # An adopted one was not built here: nothing is known of what it contains.
        name=name if build.digest else None,
        digest=build.digest,
        image=build.base_image or "",
        python=build.inputs.get("spec", {}).get("base.python", ""),
        level=build.warmup.level,
        env=dict(build.env),
        packages=dict(build.packages),
        stages={stem: str(digest) for stem, digest in build.stages.items()},
    )


def _service_differs(variant: Variant, build: Build) -> str | None:
    """Return what to do if the spec has the default service, and what it is from another one."""
    command = build.inputs.get("spec", {}).get("service.command", "")
    default = " ".join(defaults.COMMAND)
    if not build.digest or command == default or variant.command != defaults.COMMAND:
        return None
    runs = f"runs the service `{command}`" if command else "runs no service"
    return (
        f"`{variant.parent_name}` {runs}, and {variant.source} the default one, E2B's code"
        f" interpreter; write [service] in {variant.source}"
    )


def _is_known(reference: str, recorded: Registry) -> bool:
    return reference in recorded.templates


def _with_hint(error: Exception) -> str:
    if isinstance(error, TemplateError):
        return f"{error.message}; {error.hint}" if error.hint else error.message
    return str(error)


def generations(variants: Sequence[Variant]) -> list[tuple[Variant, ...]]:
    """Return the variants in the order of their builds: each group is only from earlier ones."""
    left, groups = list(variants), list[tuple[Variant, ...]]()
    while left:
        names = {variant.name for variant in left}
        group = tuple(variant for variant in left if variant.parent_name not in names)
        if not group:  # a cycle, which loading the specs reports
            group = tuple(left)
        groups.append(group)
        left = [variant for variant in left if variant not in group]
    return groups


def after_parents(plan: Plan, variants: Iterable[Variant]) -> Plan:
    """Return the plan with variants marked whose parents in it are built first: only then is it
    known what they are from."""
    planned = {variant.name: variant for variant in plan.variants}
    for group in generations(list(variants)):
        for variant in group:
            parent = planned.get(variant.parent_name or "")
            if parent and parent.action in ("build", "retag") and variant.name in planned:
                before = planned[variant.name]
                why = f"`{parent.name}`, which it is from, is built first"
                planned[variant.name] = PlannedVariant(
                    name=variant.name,
                    action="build",
                    reasons=(Reason(kind="state", subject=why),),
                    ref=before.ref,
                    held=before.held,
                )
    return replace(plan, variants=tuple(planned.values()))


def with_children(chosen: Sequence[Variant], variants: Iterable[Variant]) -> tuple[Variant, ...]:
    """Return the chosen variants and those from them, directly or not."""
    selected, others = list(chosen), [each for each in variants if each not in chosen]
    names: Collection[str] = {variant.name for variant in selected}
    while children := [each for each in others if each.parent_name in names]:
        selected += children
        names = {variant.name for variant in selected}
        others = [each for each in others if each.name not in names]
    return tuple(selected)
