"""Which recorded builds a rebuild would change, and how."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from builder import plan, render
from builder.errors import counted
from builder.registry import history
from builder.registry.model import Build, Entry, Hold
from builder.workflow import Context, Prepared


@dataclass(frozen=True, kw_only=True, slots=True)
class Outdated:
    """A template, the build that the channel points at, its age in days (None if unknown), and the
    reasons for a new build. Without reasons it is up to date, or `held` while a newer build is
    already recorded."""

    name: str
    target: str
    ref: str | None
    age_days: float | None
    reasons: tuple[plan.Reason, ...]
    held: Hold | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the finding as plain values."""
        return {
            "name": self.name,
            "target": self.target,
            "ref": self.ref,
            "age_days": None if self.age_days is None else round(self.age_days, 2),
            "outdated": bool(self.reasons),
            "held": self.held.described() if self.held else None,
            "reasons": [reason.to_json() for reason in self.reasons],
        }


def outdated(prepared: Prepared, context: Context, *, max_age_days: float) -> list[Outdated]:
    """Compare the specs, rendered with the latest packages, with what the channel points at.

    A spec that could not be rendered is left out: its error is in `prepared`. Raise
    `RegistryError`.
    """
    target, channel = context.target_name, prepared.request.channel
    templates = context.registry.now().templates
    findings = []
    for rendered in sorted(prepared.rendered, key=lambda rendered: rendered.variant.name):
        name = rendered.variant.name
        targets = templates.get(name, {})
        entry = targets.get(target) or Entry()
        current = entry.channel(channel)
        ref, held, build = current.ref, current.hold, current.build or Build()
        age = _age_days(build, context.clock())
        if ref is None:
            reasons = [_state(_missing(name, targets, target, channel))]
        else:
            reasons = _reasons(rendered, build)
        if age is not None and age > max_age_days:
            old = f"{counted(age, 'day')} old, like everything that the target adds to a build"
            reasons.append(_state(old))
        usable = {b.digest for b in entry.builds.values() if not b.is_revoked}
        if held and rendered.digest in usable:
            reasons = []  # a rebuild would bring nothing new
        findings.append(
            Outdated(
                name=name,
                target=target,
                ref=ref,
                age_days=age,
                reasons=tuple(reasons),
                held=held,
            )
        )
    return findings


def _missing(name: str, targets: Mapping[str, Entry], target: str, channel: str) -> str:
    """Return why there is no build to compare with."""
    built = sorted(name for name, entry in targets.items() if entry.builds)
    if target in built:
        text = f"never on channel {channel}"
        entry = targets[target]
        newest = history.newest_first(entry)[0]
        if not entry.channels and (why := history.overtaken_because(entry, newest)):
            text += (
                f": {why}; `template-builder registry rebuild {name} --target {target}` records"
                " that one"
            )
        return text
    elsewhere = f", but on {' and '.join(built)}: --target looks there" if built else ""
    return f"never built on {target}{elsewhere}"


def _reasons(rendered: render.Rendered, build: Build) -> list[plan.Reason]:
    reasons = [_state(f"the build is {build.revocation}")] if build.is_revoked else []
    if build.is_adopted:
        reasons.append(_state("adopted, not built from this spec"))
    elif build.digest != rendered.digest:
        reasons += plan.differences(build, plan.inputs_of(rendered))
    return reasons


def _state(text: str) -> plan.Reason:
    return plan.Reason(kind="state", subject=text)


def _age_days(build: Build, now: dt.datetime) -> float | None:
    try:
        built = dt.datetime.fromisoformat(build.built_at or "")
        return (now - built).total_seconds() / 86400
    except (ValueError, TypeError):
        return None
