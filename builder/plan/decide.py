"""One action a variant, with its reasons."""

from __future__ import annotations

from collections.abc import Mapping

from builder.errors import TemplateError
from builder.plan.inputs import differences, inputs_of
from builder.plan.steps import fetched_on, foretell, known_steps, program_of, step_keys_of
from builder.plan.values import Action, Plan, PlannedVariant, Reason, Situation
from builder.registry import DEFAULT_CHANNEL
from builder.registry.history import overtaken
from builder.registry.model import Build, Channel, Entry, Hold
from builder.render import Rendered


def make_plan(
    variants: Mapping[str, Rendered | TemplateError],
    templates: Mapping[str, Mapping[str, Entry]],
    situation: Situation,
    *,
    channel: str = DEFAULT_CHANNEL,
    force: bool = False,
    refresh_base: bool = False,
    release: bool = False,
    programs: bool = True,
) -> Plan:
    """Decide what to do with each of `variants` (by name; an error when it could not be rendered).

    `templates` is the registry's name → target → entry. With `force`, what has not changed is built
    again, from the base image on; with `refresh_base`, where the target keeps base images by their
    names and this one's is not pinned. With `release`, a channel that is on hold is moved all the
    same. Without `programs`, the steps of E2B are left out. Raises `FlattenError`
    when a rendered Dockerfile says what E2B cannot do.
    """
    planned = [
        _decide(
            name,
            found,
            templates,
            situation,
            channel,
            force=force,
            refresh_base=refresh_base,
            release=release,
            programs=programs,
        )
        for name, found in sorted(variants.items())
    ]
    if situation.steps_cached:
        planned = foretell(planned, list(known_steps(templates, situation.target)))
    return Plan(target=situation.target, channel=channel, variants=tuple(planned))


def _decide(
    name: str,
    found: Rendered | TemplateError,
    templates: Mapping[str, Mapping[str, Entry]],
    situation: Situation,
    channel: str,
    *,
    force: bool,
    refresh_base: bool,
    release: bool,
    programs: bool,
) -> PlannedVariant:
    entry = templates.get(name, {}).get(situation.target) or Entry()
    now = entry.channel(channel)
    ref, held = now.ref, now.hold
    if isinstance(found, TemplateError):
        why = (Reason(kind="state", what=found.message),)
        return PlannedVariant(
            name=name, action="blocked", reasons=why, digest=None, ref=ref, held=held
        )
    program = program_of(found) if programs else None
    stale_base = None
    if situation.steps_cached:
        since = fetched_on(found.lock.image.pinned, templates, situation.target)
        stale_base = found.lock.image.cached_by_name(situation.target, since)
    option = "--force" if force else "--refresh-base" if refresh_base and stale_base else None
    action, reasons, retag = _action(name, found, entry, now, situation, option)
    if held and not release:
        action, reasons, retag = _held(action, reasons, retag, ref, held, situation, name, channel)
    drift = situation.drift.get(name)
    if action == "retag" and drift and drift.elsewhere:
        action, reasons = "skip", [_state(drift.text)]
    if action == "build" and name in situation.unaccepted:
        action, reasons = "blocked", [_state(situation.unaccepted[name]), *reasons]
    return PlannedVariant(
        name=name,
        action=action,
        reasons=tuple(reasons),
        digest=found.digest,
        ref=ref,
        retag=retag,
        held=held,
        stages=tuple(stage.stem for stage in found.variant.stages),
        unsupported=tuple(situation.unsupported.get(name, ())),
        notes=tuple(
            note for note in found.lock.notes if not (stale_base and note == found.lock.image.note)
        ),
        forced=option is not None,
        stale_base=stale_base,
        program=program,
        step_keys=step_keys_of(found, program) if program else (),
    )


def _action(
    name: str,
    found: Rendered,
    entry: Entry,
    channel: Channel,
    situation: Situation,
    force: str | None,
) -> tuple[Action, list[Reason], str | None]:
    builds, ref, current = entry.builds, channel.ref, channel.build or Build()
    unchanged = bool(ref) and current.digest == found.digest
    there = found.digest in situation.present
    drift = situation.drift.get(name)
    if unchanged and there and not current.is_revoked and name not in situation.blocked:
        if drift and drift.usable and not force:
            return "retag", [_state(drift.text)], ref
        return (
            ("build", [_state(f"nothing changed, but {force}")], None)
            if force
            else ("skip", [_state("nothing changed")], None)
        )
    reasons = _reasons(found, channel, current, situation, unbuilt=not builds, unchanged=unchanged)
    if name in situation.blocked:
        return "blocked", [_state(situation.blocked[name]), *reasons], None
    if situation.content_addressed:
        for build in builds.values():
            if build.digest == found.digest and build.is_revoked:
                same = f"the build of this very spec and lock is {build.revocation}"
                hint = "change the spec, or `template-builder restore` it"
                return "blocked", [_state(f"{same}; {hint}")], None
    if there and not force and (other := _made(name, found, builds, situation)):
        if overtaken(entry, other, channel.name) and not current.is_revoked:
            why = (
                f"channel {channel.name} belongs to build {ref}, which was begun after {other},"
                f" that of this spec; `template-builder promote {name} {other}"
                f" --channel {channel.name} --target {situation.target}` moves it all the same"
            )
            return "skip", [_state(why)], other
        moved = Reason(kind="spec", what=f"channel {channel.name}", old=ref, new=other)
        return "retag", [*reasons, moved], other
    return "build", reasons, None


def _made(
    name: str,
    found: Rendered,
    builds: Mapping[str, Build],
    situation: Situation,
) -> str | None:
    """The recorded build of this very spec and lock, where it is there and may be used."""
    usable = situation.usable.get(name)
    for ref, build in builds.items():
        there = usable is None or build.build_id in usable
        if there and build.digest == found.digest and not build.is_revoked:
            return ref
    return None


def _held(
    action: Action,
    reasons: list[Reason],
    retag: str | None,
    ref: str | None,
    hold: Hold,
    situation: Situation,
    name: str,
    channel: str,
) -> tuple[Action, list[Reason], str | None]:
    """What is left to do where the channel is to stay where it is."""
    drift = situation.drift.get(name)
    why = _state(f"channel {channel} is {hold}")
    if action == "retag" and retag != ref:
        # Its tags go back to the build that it is held at; the spec's own is recorded already.
        if drift and drift.usable:
            return "retag", [_state(drift.text), why], ref
        return "skip", [_state("the build of this spec is recorded"), why], retag
    return action, [*reasons, why], retag


def _reasons(
    found: Rendered,
    channel: Channel,
    current: Build,
    situation: Situation,
    *,
    unbuilt: bool,
    unchanged: bool,
) -> list[Reason]:
    target, drift = situation.target, situation.drift.get(found.variant.name)
    if channel.ref is None:
        never = f"never built on {target}" if unbuilt else f"never on channel {channel.name}"
        return [_state(never)]
    if current.is_adopted:
        return [_state("adopted, not built from this spec")]
    if current.is_revoked:
        return [_state(f"the build is {current.revocation}")]
    if drift and not drift.usable:
        return [_state(drift.text), *([] if unchanged else differences(current, inputs_of(found)))]
    if unchanged:
        place = "the environment is not on this machine" if situation.this_machine else None
        return [_state(place or f"the build is not there any more on {target}")]
    return list(differences(current, inputs_of(found)))


def _state(text: str) -> Reason:
    return Reason(kind="state", what=text)
