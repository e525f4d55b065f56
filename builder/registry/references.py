"""Find a recorded build by any of its names."""

from __future__ import annotations

from builder.errors import UnknownBuildError, UnknownTemplateError, did_you_mean
from builder.registry.history import newest_first
from builder.registry.model import Build
from builder.registry.values import DEFAULT_CHANNEL, Record, Registry, no_channel_hint

_SHORTEST = 6


def split(reference: str, recorded: Registry) -> tuple[str, str | None]:
    """Split `NAME`, `NAME@BUILD` or a full ref into the template's name and the build."""
    if reference in recorded.templates:
        return reference, None
    name, at, wanted = reference.partition("@")
    if at and name in recorded.templates:
        return name, wanted
    for known, targets in recorded.templates.items():
        if any(reference in entry.builds for entry in targets.values()):
            return known, reference
    raise UnknownTemplateError(
        f"`{reference}` is neither a template nor a build in {recorded.path}",
        hint=did_you_mean(name, recorded.templates)
        or "`template-builder list` shows all templates",
    )


def find_build(
    recorded: Registry, name: str, wanted: str | None = None, *, target: str | None = None
) -> Record:
    """Return the build of `name` that `wanted` means: a channel, ref, build ID or digest, or at
    least the first 6 characters of one. None means the channel `stable`.

    The build may be revoked: this is for inspecting builds, not for running code in them. Raise
    `UnknownBuildError` and the `LookupError`s of `Registry.lookup`.
    """
    targets = recorded.templates.get(name, {})
    if wanted and target is None:
        holders = [key for key, entry in targets.items() if wanted in entry.builds]
        target = holders[0] if len(holders) == 1 else None
    target = recorded.target_of(name, target)
    entry = recorded.entry(name, target)
    builds = entry.builds
    wanted = wanted or DEFAULT_CHANNEL
    ref = wanted if wanted in builds else entry.channels.get(wanted)
    matches = [ref] if ref in builds else []
    if not matches and len(wanted) >= _SHORTEST:
        matches = [
            ref
            for ref, build in builds.items()
            if any(name.startswith(wanted) for name in _names(ref, build))
        ]
    if len(matches) == 1:
        return recorded.record(name, target, matches[0])
    known = ", ".join(f"`{ref}`" for ref in sorted(matches or builds)) or "none"
    raise UnknownBuildError(
        f"`{wanted}` matches several builds of `{name}` on `{target}`: {known}"
        if matches
        else f"`{name}` has no build or channel `{wanted}` on `{target}`; its builds: {known}",
        hint=did_you_mean(wanted, [*entry.channels, *builds])
        or no_channel_hint(name, target, builds, entry.channels),
    )


def newest_usable(recorded: Registry, name: str, target: str) -> Record:
    """Return the newest usable build of `name`. Raise `UnknownBuildError` if there is none, and the
    `LookupError`s of `Registry.lookup`."""
    entry = recorded.entry(name, target)
    builds = entry.builds
    for ref in newest_first(entry):
        if builds[ref].is_verified and not builds[ref].is_revoked:
            return recorded.record(name, target, ref)
    raise UnknownBuildError(
        f"`{name}` has no build on `{target}` that is verified and not revoked",
        hint=f"`template-builder build {name} --target {target}` makes one",
    )


def _names(ref: str, build: Build) -> list[str]:
    digest = build.digest or ""
    return [name for name in (ref, build.build_id, digest, digest.partition(":")[2]) if name]
