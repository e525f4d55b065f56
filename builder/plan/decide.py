"""Decide on an action for each variant, with its reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from builder.errors import FlattenError, TemplateError
from builder.plan.inputs import differences, inputs_of
from builder.plan.steps import fetched_on, foretell, program_of, step_keys_of
from builder.plan.values import Action, Drift, Plan, PlannedVariant, Reason, Situation
from builder.registry import DEFAULT_CHANNEL
from builder.registry.history import overtaken, put_back
from builder.registry.model import Build, Channel, Entry
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
    """Decide what to do with each of `variants` (by name; an error if it could not be rendered).

    `templates` is the registry's name → target → entry. `force` rebuilds unchanged variants from
    the base image on; `refresh_base` does so if the target caches the base image by its name only.
    `release` moves channels that are on hold. Without `programs`, the steps of E2B are left out.
    Raise `FlattenError` if E2B cannot build a rendered Dockerfile.
    """
    planned = []
    for name, result in sorted(variants.items()):
        entry = templates.get(name, {}).get(situation.target) or Entry()
        pointed = entry.channel(channel)
        if isinstance(result, TemplateError):
            reasons, ref, hold = (_state(result.message),), pointed.ref, pointed.hold
            planned.append(
                PlannedVariant(name=name, action="blocked", reasons=reasons, ref=ref, held=hold)
            )
            continue
        stale_base = None
        if situation.steps_cached and not result.variant.parent:
            since = fetched_on(result.lock.image.pinned, templates, situation.target)
            stale_base = result.lock.image.cached_by_name(situation.target, since)
        option = "--force" if force else "--refresh-base" if refresh_base and stale_base else None
        case = _Case(
            rendered=result, entry=entry, channel=pointed, situation=situation, option=option
        )
        planned.append(case.planned(stale_base, release=release, programs=programs))
    if situation.steps_cached:
        planned = foretell(planned, templates, situation.target)
    return Plan(target=situation.target, channel=channel, variants=tuple(planned))


_Decision = tuple[Action, list[Reason], str | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Case:
    """A rendered variant with its record and the state of the target.

    `option` is the one that forces every step. A decision is an action, its reasons, and the build
    to retag.
    """

    rendered: Rendered
    entry: Entry
    channel: Channel
    situation: Situation
    option: str | None

    @property
    def name(self) -> str:
        return self.rendered.variant.name

    @property
    def drift(self) -> Drift | None:
        return self.situation.drift.get(self.name)

    @property
    def current(self) -> Build:
        return self.channel.build or Build()

    @property
    def unchanged(self) -> bool:
        return bool(self.channel.ref) and self.current.digest == self.rendered.digest

    def planned(self, stale_base: str | None, *, release: bool, programs: bool) -> PlannedVariant:
        rendered, situation, held = self.rendered, self.situation, self.channel.hold
        # A base image matters only to targets that build from it, and is described only once.
        without_base = situation.this_machine or stale_base is not None
        program, unbuildable = None, None
        try:
            program = program_of(rendered) if programs else None
        except FlattenError as error:
            unbuildable = error
        action, reasons, retag = self._decision()
        if unbuildable:
            blocked = situation.blocked.get(self.name)
            why = [blocked, _in_one_line(unbuildable)]
            if blocked and "network = false" in blocked:  # which it names, key by key
                others = [each for each in unbuildable.problems if each.key != "RUN --network"]
                why = [blocked, _in_one_line(FlattenError(others)) if others else None]
            action, reasons = "blocked", [_state(text) for text in why if text]
        if held and not release:
            action, reasons, retag = self._held(action, reasons, retag)
        if action == "retag" and self.drift and self.drift.elsewhere:
            # The reasons of a held channel already include the drift.
            action, reasons = "skip", reasons if held else [_state(self.drift.text)]
        if action == "build" and self.name in situation.unaccepted:
            action, reasons = "blocked", [_state(situation.unaccepted[self.name]), *reasons]
        return PlannedVariant(
            name=self.name,
            action=action,
            reasons=tuple(reasons),
            digest=rendered.digest,
            ref=self.channel.ref,
            retag=retag,
            held=held,
            stages=tuple(stage.stem for stage in rendered.variant.stages),
            files=rendered.variant.matches,
            # Builds on this machine run none, and list them as not provided.
            runs=() if situation.this_machine else rendered.variant.runs,
            unsupported=tuple(situation.unsupported.get(self.name, ())),
            notes=rendered.lock.notes[without_base and rendered.lock.image.note is not None :],
            fetched=self._fetched(),
            forced=self.option is not None,
            stale_base=stale_base,
            program=program,
            step_keys=step_keys_of(rendered, program) if program else (),
        )

    def _fetched(self) -> tuple[str, ...]:
        fetched = self.rendered.fetched
        if self.situation.this_machine:  # which lists the others as not provided
            return tuple(content.described(None) for content in fetched if content.is_at_home)
        return tuple(content.described(self.rendered.variant.memory_mb) for content in fetched)

    def _decision(self) -> _Decision:
        situation, ref, drift = self.situation, self.channel.ref, self.drift
        blocked = situation.blocked.get(self.name)
        built = self.rendered.digest in situation.present
        if self.unchanged and built and not self.current.is_revoked and blocked is None:
            if self.option:
                return "build", [_state(f"nothing changed, but {self.option}")], None
            if drift and drift.usable:
                return "retag", [_state(drift.text)], ref
            return "skip", [_state("nothing changed")], None
        reasons = self._reasons()
        if blocked is not None:
            return "blocked", [_state(blocked), *reasons], None
        same = [b for b in self.entry.builds.values() if b.digest == self.rendered.digest]
        if situation.content_addressed and (revoked := [b for b in same if b.is_revoked]):
            why = f"the build of this spec and lock is {revoked[0].revocation}"
            hint = "change the spec, or `template-builder restore` it"
            return "blocked", [_state(f"{why}; {hint}")], None
        if built and not self.option and (other := self._made()):
            channel = self.channel.name
            newer = overtaken(self.entry, other, channel)
            if (newer or put_back(self.entry, other, channel)) and not self.current.is_revoked:
                because = "another machine published"
                if newer:
                    because = f"was started after {other}, the build of this spec"
                why = (
                    f"channel {channel} points at build {ref}, which {because};"
                    f" `template-builder promote {self.name} {other} --channel {channel}"
                    f" --target {situation.target}` moves it anyway"
                )
                return "skip", [_state(why)], other
            moved = Reason(kind="spec", subject=f"channel {channel}", old=ref, new=other)
            return "retag", [*reasons, moved], other
        return "build", reasons, None

    def _made(self) -> str | None:
        """Return the recorded build of this spec and lock, if it exists and can be used."""
        usable = self.situation.usable.get(self.name)
        for ref, build in self.entry.builds.items():
            is_usable = usable is None or build.build_id in usable
            if is_usable and build.digest == self.rendered.digest and not build.is_revoked:
                return ref
        return None

    def _held(self, action: Action, reasons: list[Reason], retag: str | None) -> _Decision:
        """Return what is left to do if the channel must not move."""
        why = _state(f"channel {self.channel.name} is {self.channel.hold}")
        if action == "retag" and retag != self.channel.ref:
            # Its tags go back to the build that it is held at.
            if self.drift and self.drift.usable:
                return "retag", [_state(self.drift.text), why], self.channel.ref
            return "skip", [_state("the build of this spec is already recorded"), why], retag
        return action, [*reasons, why], retag

    def _reasons(self) -> list[Reason]:
        target, drift, current = self.situation.target, self.drift, self.current
        if self.channel.ref is None:
            channel = f"never on channel {self.channel.name}"
            return [_state(channel if self.entry.builds else f"never built on {target}")]
        if current.is_adopted:
            return [_state("adopted, not built from this spec")]
        if current.is_revoked:
            return [_state(f"the build is {current.revocation}")]
        changes = [] if self.unchanged else differences(current, inputs_of(self.rendered))
        if drift and not drift.usable:
            return [_state(drift.text), *changes]
        if self.unchanged and self.situation.this_machine:
            return [_state("the environment is not on this machine")]
        return list(changes) or [_state(f"the build no longer exists on {target}")]


def _in_one_line(error: FlattenError) -> str:
    return " ".join(line.strip() for line in error.message.splitlines())


def _state(text: str) -> Reason:
    return Reason(kind="state", subject=text)
