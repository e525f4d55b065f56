"""Taking builds out of use, by their ref or by what they contain, and putting them back."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from builder.errors import RegistryError, RevokedError, SelectionError, UnknownBuildError
from builder.record.fields import first_stages_of
from builder.record.store import update
from builder.registry import history, is_time, revocation, revoked_as_of, revoked_because

__all__ = ["Content", "check_contents", "is_revoked_itself", "marks_of", "restore", "revoke"]

_OWN = "build"
_DIGEST = re.compile(r"[0-9a-f]{8,64}")
_UNREADABLE = "`revocations` of the registry holds {0!r}, which is nothing that a build contains"


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """What a build may contain: `kind` is `package` (a requirement such as `torch==2.14.0`),
    `base` (a digest, or the reference of a tag) or `stage` (`_torch@sha256:…`, shortened or not).
    """

    kind: str
    value: str

    def __str__(self) -> str:
        return f"{self.kind} {self.value}"

    @classmethod
    def parse(cls, kind: str, value: str) -> Content:
        """Raises `SelectionError` for what can match nothing, or everything."""
        value = value.strip()
        if kind == "package":
            value = str(_requirement(value))
        elif kind == "base" and (not value or " " in value or not value.isprintable()):
            raise SelectionError(
                f"{value!r} is no base image", hint="name its digest: --base sha256:…"
            )
        elif kind == "stage":
            stem, _, digest = value.partition("@sha256:")
            if not stem or not stem.isprintable() or not _DIGEST.fullmatch(digest):
                raise SelectionError(
                    f"{value!r} is no stage of a build",
                    hint="expected STAGE@sha256:…, as `template-builder show` tells it, with 8 or"
                    " more digits",
                )
        return cls(kind=kind, value=value)

    def within(self, fields: Mapping[str, Any]) -> bool:
        """Whether the build, of which `fields` is the record, contains it."""
        if self.kind == "base":
            base = str(fields.get("base_image", ""))
            return base == self.value or base.endswith(f"@{self.value}")
        if self.kind == "stage":
            stem, _, digest = self.value.partition("@")
            digests = [fields.get("stages", {}), first_stages_of(fields.get("inputs", {}))]
            return any(stages.get(stem, "").startswith(digest) for stages in digests)
        wanted = _requirement(self.value)
        known = {**fields.get("other_packages", {}), **fields.get("packages", {})}
        for name, version in known.items():
            if canonicalize_name(name) == canonicalize_name(wanted.name):
                # A lock may have several, of which each machine takes the one for its Python.
                return all(_meets(wanted, one) for one in str(version).split(" | "))
        return False


def _meets(wanted: Requirement, version: str) -> bool:
    try:
        return wanted.specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return f"=={version}" == str(wanted.specifier)


@functools.lru_cache(maxsize=64)  # each is asked of every build there is
def _requirement(text: str) -> Requirement:
    try:
        wanted = Requirement(text)
    except InvalidRequirement as error:
        raise SelectionError(
            f"{text!r} is not a package with its version: {str(error).splitlines()[0]}",
            hint="for instance --package torch==2.14.0",
        ) from error
    if not wanted.specifier or wanted.extras or wanted.marker or wanted.url:
        raise SelectionError(
            f"{text!r} is not a package with its version",
            hint="for instance --package torch==2.14.0, or --package 'torch<2.14'",
        )
    return wanted


def revoke(
    location: str | os.PathLike[str],
    what: Content | tuple[str, str, str],
    *,
    reason: str,
    by: str,
    at: str | None = None,
) -> list[tuple[str, str, str, str | None]]:
    """Take builds out of use from `at` on (`2026-11-23T07:49:55Z`; at once for None).

    `what` is one build (template, target, ref), or what builds contain: then all of them, and those
    that are still to be made. Where the same was revoked before, the earlier time stands: `restore`
    alone lifts a revocation. Returns the builds: (template, target, ref, since when they are
    revoked). Nothing moves: a channel that points at one fails from then on. Raises
    `UnknownBuildError`, and what `update` raises.
    """
    cause = str(what) if isinstance(what, Content) else _OWN
    # Without a time it has effect at once, also where another machine's clock is behind.
    mark = {"reason": reason, "at": history.now(), "by": by} | ({"from": at} if at else {})

    def change(data: dict[str, Any]) -> list[tuple[str, str, str, str | None]]:
        if isinstance(what, Content):
            listed = data.get("revocations", [])
            rest = [one for one in listed if one.get("what") != cause]
            same = [one for one in listed if one.get("what") == cause]
            data["revocations"] = [*rest, min([*same, {"what": cause, **mark}], key=_start)]
        revoked = []
        for name, target, ref in _meant(data["templates"], what):
            entry = data["templates"][name][target]
            fields = entry["builds"][ref]
            settle(fields, {cause: mark})
            told = f"{cause}: {reason}" if isinstance(what, Content) else reason
            history.append(entry, action="revoke", by=by, build=ref, reason=told)
            revoked.append((name, target, ref, revoked_as_of(fields)))
        return revoked

    return update(location, change)


def restore(
    location: str | os.PathLike[str],
    what: Content | tuple[str, str, str],
    *,
    by: str,
    reason: str | None = None,
) -> list[tuple[str, str, str, str | None]]:
    """Undo a revocation; returns (template, target, ref, why it is revoked still).

    Raises `UnknownBuildError` where there is nothing to undo, and what `update` raises.
    """
    cause = str(what) if isinstance(what, Content) else _OWN

    def change(data: dict[str, Any]) -> list[tuple[str, str, str, str | None]]:
        listed = data.get("revocations", [])
        rest = [one for one in listed if one.get("what") != cause]
        found = []
        for name, target, ref in _meant(data["templates"], what):
            entry = data["templates"][name][target]
            fields = entry["builds"][ref]
            marks = fields.get("revocations", {})
            if not (is_revoked_itself(fields) if cause == _OWN else cause in marks):
                continue
            marks.pop(cause, None)
            _settle(fields)
            history.append(entry, action="restore", by=by, build=ref, reason=reason)
            found.append((name, target, ref, fields.get("revoked")))
        if not found and rest == listed:
            if not isinstance(what, Content):
                raise UnknownBuildError(
                    f"the build `{what[2]}` is not revoked", hint=_rest(data["templates"], what)
                )
            known = ", ".join(f"`{one['what']}`" for one in listed) or "nothing of that kind"
            raise UnknownBuildError(f"`{cause}` is not revoked; revoked is: {known}")
        if rest != listed:
            data["revocations"] = rest
        return found

    return update(location, change)


def _rest(templates: Mapping[str, Any], what: tuple[str, str, str]) -> str | None:
    name, target, ref = what
    marks = templates[name][target]["builds"][ref].get("revocations", {})
    return f"it contains what is: {', '.join(marks)}" if marks else None


def is_revoked_itself(fields: Mapping[str, Any]) -> bool:
    """Whether a revocation is of this build, by a command or by hand, and not of a content: that
    is known from its record alone."""
    marks = fields.get("revocations", {})
    return _OWN in marks or bool(fields.get("revoked") and not marks)


def marks_of(data: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The revocations that a new build falls under: cause → reason, at, by."""
    return {
        one["what"]: {key: value for key, value in one.items() if key != "what"}
        for one in data.get("revocations", [])
        if _content(one["what"]).within(fields)
    }


def check_contents(data: Mapping[str, Any], fields: Mapping[str, Any], name: str) -> None:
    """Raises `RevokedError` when a build contains what must not be used any more."""
    for cause, mark in marks_of(data, fields).items():
        fields_of_mark = {
            "revoked": mark["reason"],
            "revoked_at": mark.get("from"),
            "revocations": {cause: mark},
        }
        if revoked_because(fields_of_mark):
            raise RevokedError(
                f"`{name}` contains {cause}, which is {revocation(fields_of_mark)}",
                hint="exclude it in the spec, for instance with `!=` and its version, or run"
                " `template-builder restore` for it",
            )


def settle(fields: dict[str, Any], marks: Mapping[str, Mapping[str, Any]]) -> None:
    """Put marks on a record; of two with the same cause, the earlier one stands."""
    if not marks:
        return
    known = dict(fields.get("revocations", {}))
    if not known and "revoked" in fields:  # by hand
        by_hand = {"reason": fields["revoked"]}
        known[_OWN] = by_hand | ({"from": fields["revoked_at"]} if "revoked_at" in fields else {})
    for cause, mark in marks.items():
        before = known.get(cause)
        known[cause] = before if before and _start(before) <= _start(mark) else dict(mark)
    fields["revocations"] = known
    _settle(fields)


def _start(mark: Mapping[str, Any]) -> str:
    """When a mark begins to have effect, to be compared: what is no time has effect already."""
    start = mark.get("from")
    return str(start) if is_time(start) else ""


def _settle(fields: dict[str, Any]) -> None:
    """`revoked` and `revoked_at` are those of the first mark: what the read side looks at."""
    marks = fields.get("revocations", {})
    for key in ("revoked", "revoked_at", *(() if marks else ("revocations",))):
        fields.pop(key, None)
    if not marks:
        return
    cause, mark = min(marks.items(), key=lambda item: (_start(item[1]), item[0]))
    fields["revoked"] = mark["reason"] if cause == _OWN else f"{cause}: {mark['reason']}"
    if is_time(mark.get("from")):
        fields["revoked_at"] = mark["from"]


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
    templates: Mapping[str, Any], what: Content | tuple[str, str, str]
) -> Iterator[tuple[str, str, str]]:
    if not isinstance(what, Content):
        name, target, ref = what
        if ref not in templates.get(name, {}).get(target, {}).get("builds", {}):
            raise UnknownBuildError(f"`{name}` has no build `{ref}` on `{target}` any more")
        yield what
        return
    for name, targets in sorted(templates.items()):
        for target, entry in sorted(targets.items()):
            for ref, fields in sorted(entry.get("builds", {}).items()):
                if what.within(fields):
                    yield name, target, ref
