"""Revoke builds, by ref or by content, and restore them."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from builder.errors import RegistryError, RevokedError, SelectionError, UnknownBuildError
from builder.record.fields import first_stages_of
from builder.record.store import update
from builder.registry import history
from builder.registry.identity import Stage, is_time
from builder.registry.model import Build, ContentRevocation, Contents, Revocation

_OWN = "build"
_PARENT = "template"
_DIGEST = re.compile(r"sha256:[0-9a-f]{8,64}")
_FROM_ANOTHER = (
    "`template-builder lock` takes the build that its channel points at now; `template-builder"
    " restore` lifts the revocation"
)
_UNREADABLE = (
    "`revocations` of the registry holds {0!r}, which is not a package, base image or stage"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """Something that builds may contain. `kind` is `package` (a requirement such as
    `torch==2.14.0`), `base` (a digest, or a reference with a tag) or `stage` (`_torch@sha256:…`,
    possibly shortened).
    """

    kind: str
    value: str

    def __str__(self) -> str:
        return f"{self.kind} {self.value}"

    @classmethod
    def parse(cls, kind: str, value: str) -> Content:
        """Read a content. Raise `SelectionError` for one that matches nothing, or everything."""
        value = value.strip()
        if kind == "package":
            value = str(_requirement(value))
        elif kind == "base" and (not value or " " in value or not value.isprintable()):
            raise SelectionError(
                f"{value!r} is not a base image", hint="name its digest: --base sha256:…"
            )
        elif kind == "stage":
            stage = Stage(value)
            if not (stage.stem and stage.isprintable() and _DIGEST.fullmatch(stage.digest)):
                raise SelectionError(
                    f"{value!r} is not a stage of a build",
                    hint="expected STAGE@sha256:… with at least 8 digits, as in `template-builder"
                    " show`",
                )
        return cls(kind=kind, value=value)

    def within(self, build: Build) -> bool:
        """Return whether the build contains it."""
        if self.kind == "base":
            base = build.base_image or ""
            return base == self.value or base.endswith(f"@{self.value}")
        if self.kind == "stage":
            stage, digests = Stage(self.value), [build.stages, first_stages_of(build.inputs)]
            return any(known.get(stage.stem, "").startswith(stage.digest) for known in digests)
        wanted = _requirement(self.value)
        for name, versions in {**build.other_packages, **build.packages}.items():
            if canonicalize_name(name) == canonicalize_name(wanted.name):
                # A lock may have several versions, one for each version of Python.
                return all(_meets(wanted, version) for version in versions.split(" | "))
        return False


def _meets(wanted: Requirement, version: str) -> bool:
    try:
        return wanted.specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return f"=={version}" == str(wanted.specifier)


@functools.lru_cache(maxsize=64)  # each is compared with every build
def _requirement(text: str) -> Requirement:
    try:
        wanted = Requirement(text)
    except InvalidRequirement as error:
        raise SelectionError(
            f"{text!r} is not a package with a version: {str(error).splitlines()[0]}",
            hint="for instance --package torch==2.14.0",
        ) from error
    if not wanted.specifier or wanted.extras or wanted.marker or wanted.url:
        raise SelectionError(
            f"{text!r} is not a package with a version",
            hint="for instance --package torch==2.14.0, or --package 'torch<2.14'",
        )
    return wanted


def revoke(
    location: str | os.PathLike[str],
    subject: Content | tuple[str, str, str],
    *,
    reason: str,
    by: str,
    at: str | None = None,
) -> list[tuple[str, str, str, str | None]]:
    """Revoke builds from `at` on (`2026-11-23T07:49:55Z`; None means at once).

    `subject` is one build (template, target, ref), with the builds from it, or a content: then all
    builds that contain it, future ones included. If the subject is already revoked, the earlier
    time stands: only `restore` lifts a revocation. Return the builds: (template, target, ref, since
    when revoked). No channel moves; one that points at a revoked build fails. Raise
    `UnknownBuildError`, and what `update` raises.
    """
    # Without a start it takes effect at once, even if another machine's clock is behind.
    mark = Revocation(reason=reason, at=(now := history.now()), by=by, start=at or None)

    def change(contents: Contents) -> list[tuple[str, str, str, str | None]]:
        if isinstance(subject, Content):
            what = str(subject)
            new = ContentRevocation(what=what, reason=reason, at=now, by=by, start=mark.start)
            listed = contents.revocations
            rest = [other for other in listed if other.what != what]
            same = [other for other in listed if other.what == what]
            listed[:] = [*rest, min([*same, new], key=_start)]
        revoked = []
        for name, target, ref, cause in _meant(contents, subject):
            entry = contents.templates[name][target]
            build = entry.builds[ref] = settled(entry.builds[ref], {cause: mark})
            why = reason if cause == _OWN else f"{cause}: {reason}"
            history.append(entry, "revoke", by, build=ref, reason=why)
            revoked.append((name, target, ref, build.revoked_since))
        return revoked

    return update(location, change)


def restore(
    location: str | os.PathLike[str],
    subject: Content | tuple[str, str, str],
    *,
    by: str,
    reason: str | None = None,
) -> list[tuple[str, str, str, str | None]]:
    """Undo a revocation; return (template, target, ref, why it is still revoked).

    Raise `UnknownBuildError` if there is nothing to undo, and what `update` raises.
    """
    lifted = str(subject) if isinstance(subject, Content) else _OWN

    def change(contents: Contents) -> list[tuple[str, str, str, str | None]]:
        listed = contents.revocations
        rest = [other for other in listed if other.what != lifted]
        restored = []
        for name, target, ref, cause in _meant(contents, subject):
            entry = contents.templates[name][target]
            build = entry.builds[ref]
            if not (is_revoked_itself(build) if cause == _OWN else cause in build.revocations):
                continue
            marks = {key: mark for key, mark in build.revocations.items() if key != cause}
            build = entry.builds[ref] = _with_marks(build, marks)
            history.append(entry, "restore", by, build=ref, reason=reason)
            restored.append((name, target, ref, build.revoked))
        if not restored and rest == listed:
            if not isinstance(subject, Content):
                name, target, ref = subject
                content = ", ".join(contents.templates[name][target].builds[ref].revocations)
                raise UnknownBuildError(
                    f"the build `{ref}` is not revoked",
                    hint=f"it contains revoked content: {content}" if content else None,
                )
            known = ", ".join(f"`{other.what}`" for other in listed) or "nothing of that kind"
            raise UnknownBuildError(f"`{lifted}` is not revoked; revoked: {known}")
        listed[:] = rest
        return restored

    return update(location, change)


def is_revoked_itself(build: Build) -> bool:
    """Return whether the build itself was revoked, by a command or by hand, not a content of it."""
    return _OWN in build.revocations or bool(build.revoked and not build.revocations)


def marks_of(contents: Contents, build: Build) -> dict[str, Revocation]:
    """Return the revocations that apply to a new build: cause → reason, at, by."""
    marks = _marks_of_parent(contents, build.from_template) if build.from_template else {}
    for listed in contents.revocations:
        if _content(listed.what).within(build):
            plain = {key: value for key, value in listed.to_json().items() if key != "what"}
            marks[listed.what] = Revocation.from_json(plain)
    return marks


def _marks_of_parent(contents: Contents, ref: str) -> dict[str, Revocation]:
    """Return the revocations that a build inherits from the one that it is on, and this one from
    its own; those of contents apply to each build by itself."""
    entries = (entry for targets in contents.templates.values() for entry in targets.values())
    parent = next((entry.builds[ref] for entry in entries if ref in entry.builds), Build())
    marks = parent.revocations
    if parent.revoked is not None and not marks:  # by hand
        marks = {_OWN: Revocation(reason=parent.revoked, start=parent.revoked_at)}
    return {
        f"{_PARENT} {ref}" if cause == _OWN else cause: mark
        for cause, mark in marks.items()
        if cause == _OWN or cause.startswith(f"{_PARENT} ")
    }


def check_contents(contents: Contents, build: Build, name: str) -> None:
    """Raise `RevokedError` if a build contains revoked content."""
    for cause, mark in marks_of(contents, build).items():
        marked = Build(revoked=mark.reason, revoked_at=mark.start, revocations={cause: mark})
        if marked.is_revoked:
            raise RevokedError(
                f"`{name}` contains {cause}, which is {marked.revocation}",
                hint=_FROM_ANOTHER
                if cause.startswith(f"{_PARENT} ")
                else "exclude it in the spec, for instance with `!=` and its version, or run"
                " `template-builder restore` for it",
            )


def settled(build: Build, marks: Mapping[str, Revocation]) -> Build:
    """Return the build with `marks` added; of two with the same cause, the earlier one stands."""
    if not marks:
        return build
    known = dict(build.revocations)
    if not known and build.revoked is not None:  # by hand
        known[_OWN] = Revocation(reason=build.revoked, start=build.revoked_at)
    for cause, mark in marks.items():
        before = known.get(cause)
        known[cause] = before if before and _start(before) <= _start(mark) else mark
    return _with_marks(build, known)


def _start(mark: Revocation) -> str:
    """Return when a mark takes effect, for comparison; without a valid time, always."""
    return mark.start if mark.start and is_time(mark.start) else ""


def _with_marks(build: Build, marks: Mapping[str, Revocation]) -> Build:
    """Return the build with `marks`; the first one gives `revoked` and `revoked_at`."""
    if not marks:
        return replace(build, revoked=None, revoked_at=None, revocations={})
    cause, mark = min(marks.items(), key=lambda item: (_start(item[1]), item[0]))
    return replace(
        build,
        revoked=mark.reason if cause == _OWN else f"{cause}: {mark.reason}",
        revoked_at=_start(mark) or None,
        revocations=marks,
    )


def _content(cause: str) -> Content:
    kind, _, value = cause.partition(" ")
    if kind not in ("package", "base", "stage"):
        raise RegistryError(_UNREADABLE.format(cause), hint="restore the file from git")
    try:
        return Content.parse(kind, value)
    except SelectionError as error:
        raise RegistryError(
            f"{_UNREADABLE.format(cause)}: {error.message}", hint="restore the file from git"
        ) from error


def _meant(
    contents: Contents, subject: Content | tuple[str, str, str]
) -> Iterator[tuple[str, str, str, str]]:
    """Yield the builds that a revocation is about, each with its cause there."""
    if not isinstance(subject, Content):
        name, target, ref = subject
        if ref not in contents.entry(name, target).builds:
            raise UnknownBuildError(f"`{name}` no longer has build `{ref}` on `{target}`")
        yield *subject, _OWN
        yield from _from(contents, ref)
        return
    for name, targets in sorted(contents.templates.items()):
        for target, entry in sorted(targets.items()):
            for ref, build in sorted(entry.builds.items()):
                if subject.within(build):
                    yield name, target, ref, str(subject)


def _from(contents: Contents, parent: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield the builds from the build `parent`, and those from them."""
    parents = {parent}
    builds = [
        (name, target, ref, build.from_template)
        for name, targets in sorted(contents.templates.items())
        for target, entry in sorted(targets.items())
        for ref, build in sorted(entry.builds.items())
        if build.from_template
    ]
    while further := [each for each in builds if each[3] in parents and each[2] not in parents]:
        for name, target, ref, _ in further:
            parents.add(ref)
            yield name, target, ref, f"{_PARENT} {parent}"
