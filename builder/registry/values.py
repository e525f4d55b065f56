"""The registry in memory, and its look-ups."""

from __future__ import annotations

import os
import time

from builder.errors import (
    NotBuiltError,
    RegistryError,
    RevokedError,
    UnknownChannelError,
    UnknownTemplateError,
    counted,
    did_you_mean,
)
from builder.registry.identity import Digest, Ref, is_time, utc

if False:  # for type checkers; importing typing costs as much as all the rest
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

    from builder.registry.model import Build, Contents, Entry
    from builder.sandbox.network import Network

VERSION = 1
DEFAULT_CHANNEL = "stable"


class Record:
    """The record of one build of a template on one target; read-only.

    `ref` is what a sandbox is created from. `fields` holds everything recorded, unknown fields
    included, and `build` the same with types. The other properties are for applications.
    """

    __slots__ = ("_fields", "name", "ref", "target")

    def __init__(self, *, name: str, target: str, ref: str, fields: dict[str, Any]) -> None:
        self.name = name
        self.target = target
        self.ref = Ref(ref)
        self._fields = fields

    def __repr__(self) -> str:
        return f"Record(name={self.name!r}, target={self.target!r}, ref={self.ref!r})"

    @property
    def fields(self) -> Mapping[str, object]:
        """The record as it is in the file."""
        return self._fields

    @property
    def build(self) -> Build:
        """The record with types."""
        from builder.registry.model import Build

        return Build.from_json(self._fields)

    @property
    def template_id(self) -> str:
        """The template's ID on its target."""
        return str(self._fields.get("template_id", self.ref.template_id))

    @property
    def build_id(self) -> str | None:
        """The ID of the immutable build, or None for a template that was adopted without one."""
        return self._fields.get("build_id")

    @property
    def digest(self) -> Digest | None:
        """`sha256:…` of what was built, or None for an adopted template."""
        digest = self._fields.get("digest")
        return digest and Digest(digest)

    @property
    def origin(self) -> str:
        """`built` from a spec, or `adopted`."""
        return str(self._fields.get("origin", "built"))

    @property
    def packages(self) -> dict[str, str]:
        """Distribution name to version, as listed in the verified sandbox."""
        packages: dict[str, str] = self._fields.get("packages", {})
        return packages

    @property
    def level(self) -> str:
        """The warm-up level: `none`, `disk` or `memory`."""
        return str(self._fields.get("warmup", {}).get("level", "none"))

    @property
    def imports(self) -> tuple[str, ...]:
        """The modules that the warm-up imports."""
        return tuple(self._fields.get("warmup", {}).get("imports", ()))

    @property
    def env(self) -> dict[str, str]:
        """The environment variables of its sandboxes."""
        variables: dict[str, str] = self._fields.get("env", {})
        return variables

    @property
    def network(self) -> Network | None:
        """The hosts that its sandboxes may reach; None if the spec does not say."""
        if (value := self._fields.get("network")) is None:
            return None
        from builder.sandbox.network import Network

        return Network.of(value)

    @property
    def resources(self) -> dict[str, int]:
        """The `cpu` count and `memory_mb` of its sandboxes, if recorded."""
        resources: dict[str, int] = self._fields.get("resources") or {}
        return resources

    @property
    def revoked(self) -> str | None:
        """Why the build is revoked, or None."""
        return _revoked_because(self._fields)


def _revoked_because(fields: Any) -> str | None:
    """Return why the build with the record `fields` is revoked, or None."""
    return in_effect(fields.get("revoked"), fields.get("revoked_at"))


def in_effect(reason: str | None, at: Any) -> str | None:
    """Return the reason of a revocation, or None if it takes effect later (`at`, UTC)."""
    return None if reason and is_time(at) and at > utc(time.time()) else reason


class Registry:
    """The parsed file. Look-ups read it as it is; everything else uses the typed `contents`."""

    __slots__ = ("_contents", "_data", "path")

    def __init__(self, data: dict[str, Any], path: str) -> None:
        self._data = data
        self.path = path
        self._contents: Contents | None = None

    @property
    def contents(self) -> Contents:
        """The contents, checked. Raises `RegistryError` for a wrong value."""
        if self._contents is None:
            from builder.registry.model import contents

            self._contents = contents(self._data, path=self.path)
        return self._contents

    @property
    def templates(self) -> dict[str, dict[str, Entry]]:
        """Name → target → records. Raises what `contents` raises."""
        return self.contents.templates

    @property
    def names(self) -> Iterable[str]:
        """The names of the templates."""
        templates: dict[str, Any] = self._data["templates"]
        return templates

    def records(self, *, ref: str | None = None, target: str | None = None) -> Iterator[Record]:
        """Yield the builds, unchecked: all, or only those with `ref` or on `target`."""
        for name, targets in self._data["templates"].items():
            for key, entry in targets.items() if isinstance(targets, dict) else ():
                builds = entry.get("builds") if isinstance(entry, dict) else None
                if target in (None, key) and isinstance(builds, dict):
                    for known in builds if ref is None else (ref,):
                        if isinstance(fields := builds.get(known), dict):
                            yield Record(name=name, target=key, ref=known, fields=fields)

    def lookup(
        self, name: str, *, target: str | None = None, channel: str = DEFAULT_CHANNEL
    ) -> Record:
        """Return the `Record` that `channel` points at.

        `target` defaults to `TEMPLATE_TARGET`, then `e2b` if the template has a build there, then
        the only target it has. Raise `UnknownTemplateError`, `NotBuiltError`,
        `UnknownChannelError`, `RevokedError` (all `LookupError`s) and `RegistryError`.
        """
        target = self.target_of(name, target)
        entry = self._targets(name)[target]
        channels, builds = entry.get("channels", {}), entry.get("builds", {})
        if not _is_as_recorded(entry, channel):
            # Check the channels and this build only; reading the whole file checks the rest.
            if isinstance(channels, dict) and isinstance(builds, dict):
                alone = {ref: builds[ref] for ref in builds if ref == channels.get(channel)}
                entry = {**entry, "builds": alone, "history": []}
            from builder.registry.model import contents

            contents({"version": VERSION, "templates": {name: {target: entry}}}, path=self.path)
        if channel not in channels:
            known = ", ".join(f"`{c}`" for c in sorted(channels)) or "none"
            raise UnknownChannelError(
                f"template `{name}` has no channel `{channel}` on target `{target}`;"
                f" its channels: {known} (in {self.path})",
                hint=did_you_mean(channel, channels)
                or no_channel_hint(name, target, builds, channels),
            )
        ref = channels[channel]
        fields = builds.get(ref)
        if fields is None:
            raise RegistryError(
                f"{self.path}: channel `{channel}` of `{name}` on `{target}` points at `{ref}`,"
                " which is not among its builds",
                hint="restore the file from git",
            )
        record = Record(name=name, target=target, ref=ref, fields=fields)
        if record.revoked:
            others = sorted(
                r for r, f in builds.items() if isinstance(f, dict) and not _revoked_because(f)
            )
            usable = ", ".join(f"`{r}`" for r in others) or "none"
            raise RevokedError(
                f"build `{ref}` of template `{name}` on target `{target}` is"
                f" {record.build.revocation}; usable builds: {usable}",
                hint=f"`template-builder rollback {name} --target {target}{_named(channel)}`"
                " goes back to a usable build; a changed spec makes a new one",
            )
        return record

    def target_of(self, name: str, target: str | None = None) -> str:
        """Return the target to use: see `lookup`. Raise its errors."""
        # After a removal, only the history is left.
        targets = {
            key: entry
            for key, entry in self._targets(name).items()
            if entry.get("builds") or entry.get("channels")
        }
        named = os.environ.get("TEMPLATE_TARGET", "").strip()
        because = ", which TEMPLATE_TARGET names" if named and not target else ""
        target = target or named or self._default(name, targets)
        if target not in targets:
            built = ", ".join(f"`{t}`" for t in sorted(targets)) or "no target"
            hint = f"`template-builder build {name} --target {target}` makes it"
            if meant := did_you_mean(target, targets):
                hint = f"{meant} If not, {hint}"
            raise NotBuiltError(
                f"template `{name}` is not built for target `{target}`{because}; it is built for"
                f" {built} (in {self.path})",
                hint=hint,
            )
        return target

    def entry(self, name: str, target: str | None = None) -> Entry:
        """Return the records of a template on the target that `target_of` returns. Raise its errors
        and what `contents` raises."""
        target = self.target_of(name, target)
        return self.templates[name][target]

    def record(self, name: str, target: str, ref: str) -> Record:
        """Return the record of a build. Raise `KeyError` if there is none, and what `contents`
        raises."""
        fields = self.templates[name][target].builds[ref].to_json()
        return Record(name=name, target=target, ref=ref, fields=fields)

    def _targets(self, name: str) -> dict[str, dict[str, Any]]:
        templates = self._data["templates"]
        if name not in templates:
            raise UnknownTemplateError(
                f"no template `{name}` in {self.path}, which has"
                f" {counted(len(templates), 'template')}",
                hint=did_you_mean(name, templates) or "`template-builder list` shows all templates",
            )
        targets: Any = templates[name]
        if not isinstance(targets, dict) or not all(isinstance(t, dict) for t in targets.values()):
            raise RegistryError(
                f"{self.path}: the entry of template `{name}` is not a table of targets",
                hint="restore the file from git",
            )
        return targets

    def checked(self) -> Registry:
        """Return the registry itself after checking all of it: see `contents`."""
        _ = self.contents
        return self

    def _default(self, name: str, targets: dict[str, dict[str, Any]]) -> str:
        if "e2b" in targets:
            return "e2b"
        if len(targets) == 1:
            return next(iter(targets))
        built = ", ".join(f"`{t}`" for t in sorted(targets)) or "none"
        raise NotBuiltError(
            f"template `{name}` needs a target; it is built for: {built} (in {self.path})",
            hint='name one with `--target` (in Python `target="…"`) or TEMPLATE_TARGET',
        )


def _is_as_recorded(entry: dict[str, Any], channel: str) -> bool:
    """Return whether the build that `channel` points at matches its checksum: then template-builder
    wrote it, and its values need no check."""
    from builder.registry.chain import checksum

    channels, builds = entry.get("channels"), entry.get("builds")
    if entry.get("holds") or not isinstance(channels, dict) or not isinstance(builds, dict):
        return False
    if not all(isinstance(ref, str) for ref in channels.values()):
        return False
    fields = builds.get(channels.get(channel))
    return isinstance(fields, dict) and fields.get("checksum") == checksum(fields)


def no_channel_hint(
    name: str, target: str, builds: Mapping[str, object], channels: Mapping[str, object]
) -> str | None:
    """Return how to get a channel for a template that has builds but no channel: none was promoted,
    or another machine has published a newer one."""
    if channels or not builds:
        return None
    hint = (
        f"`template-builder promote {name} --target {target}` points a channel at the newest build"
    )
    if all(Ref(ref).is_local for ref in builds):
        return hint
    return (
        f"`template-builder registry rebuild {name} --target {target}` records what another machine"
        f" has published there; {hint}"
    )


def _named(channel: str) -> str:
    return "" if channel == DEFAULT_CHANNEL else f" --channel {channel}"


def empty(path: str) -> Registry:
    """Return an empty registry for `path`."""
    return Registry({"version": VERSION, "templates": {}}, path)
