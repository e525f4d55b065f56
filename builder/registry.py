"""The read side of registry.json: from a template's name to what a sandbox is created from.

It reads and looks up. It never writes (that is `builder.record`), never opens a connection and
imports the standard library only, so that an application pays next to nothing for it.
"""

from __future__ import annotations

import json
import os

from builder.errors import (
    NotBuiltError,
    RegistryError,
    RegistryVersionError,
    RevokedError,
    UnknownChannelError,
    UnknownTemplateError,
    did_you_mean,
)

if False:  # for type checkers; importing typing costs as much as all the rest
    from collections.abc import Iterator
    from typing import Any

__all__ = ["Record", "Registry", "find", "load", "lookup", "resolve"]

VERSION = 1
FILE_NAME = "registry.json"
DEFAULT_CHANNEL = "stable"
_KINDS: dict[type, str] = {str: "text", dict: "a table", list: "a list", int: "a whole number"}
_TYPES: dict[str, type] = {
    "template_id": str,
    "build_id": str,
    "digest": str,
    "origin": str,
    "built_at": str,
    "revoked": str,
    "packages": dict,
    "inputs": dict,
    "verified": dict,
    "size_bytes": int,
}


class Record:
    """One build of one template on one target, as it was recorded; read-only.

    `ref` is what a sandbox is created from. `fields` holds everything recorded, unknown fields
    included; the properties are the ones an application asks for.
    """

    __slots__ = ("fields", "name", "ref", "target")

    def __init__(self, *, name: str, target: str, ref: str, fields: dict[str, Any]) -> None:
        self.name = name
        self.target = target
        self.ref = ref
        self.fields = fields

    def __repr__(self) -> str:
        return f"Record(name={self.name!r}, target={self.target!r}, ref={self.ref!r})"

    @property
    def template_id(self) -> str:
        """The template's ID on its target."""
        found: str = self.fields.get("template_id", self.ref.partition(":")[0])
        return found

    @property
    def build_id(self) -> str | None:
        """The immutable build's ID, or None for an adopted template."""
        return self.fields.get("build_id")

    @property
    def digest(self) -> str | None:
        """`sha256:…` of what was built, or None for an adopted template."""
        return self.fields.get("digest")

    @property
    def origin(self) -> str:
        """`built` by this program from a spec, or `adopted` by hand."""
        found: str = self.fields.get("origin", "built")
        return found

    @property
    def packages(self) -> dict[str, str]:
        """Distribution name to version, as found inside the verified sandbox."""
        found: dict[str, str] = self.fields.get("packages", {})
        return found

    @property
    def revoked(self) -> str | None:
        """Why the build must not be used any more, or None."""
        return self.fields.get("revoked")


class Registry:
    """The parsed file. `templates` is name → target → {"channels": …, "builds": …}."""

    __slots__ = ("data", "path")

    def __init__(self, data: dict[str, Any], path: str) -> None:
        self.data = data
        self.path = path

    @property
    def templates(self) -> dict[str, Any]:
        """Name → target → {"channels": {channel: ref}, "builds": {ref: fields}}."""
        found: dict[str, Any] = self.data["templates"]
        return found

    def lookup(
        self, name: str, *, target: str | None = None, channel: str = DEFAULT_CHANNEL
    ) -> Record:
        """Return the `Record` that `channel` points at.

        `target` defaults to `TEMPLATE_TARGET`, then `e2b` if the template has a build there, then
        the only target it has. Raises `UnknownTemplateError`, `NotBuiltError`,
        `UnknownChannelError`, `RevokedError` (all `LookupError`s) and `RegistryError`.
        """
        targets = self._targets(name)
        target = target or os.environ.get("TEMPLATE_TARGET") or self._default(name, targets)
        if target not in targets:
            built = ", ".join(f"`{t}`" for t in sorted(targets)) or "no target"
            raise NotBuiltError(
                f"template `{name}` is not built for target `{target}`; it is built for {built}"
                f" (in {self.path})",
                hint=f"`template-builder build {name} --target {target}` makes it",
            )
        entry = targets[target]
        channels = self._table(entry, "channels", name, target)
        builds = self._table(entry, "builds", name, target)
        if channel not in channels:
            known = ", ".join(f"`{c}`" for c in sorted(channels)) or "none"
            raise UnknownChannelError(
                f"template `{name}` has no channel `{channel}` on target `{target}`;"
                f" its channels: {known} (in {self.path})",
                hint=did_you_mean(channel, channels),
            )
        ref = channels[channel]
        fields = builds.get(ref) if isinstance(ref, str) else None
        if not isinstance(fields, dict):
            raise RegistryError(
                f"{self.path}: channel `{channel}` of `{name}` on `{target}` points at `{ref}`,"
                " which is not among its builds",
                hint="restore the file from git",
            )
        record = Record(name=name, target=target, ref=ref, fields=fields)
        if record.revoked:
            others = sorted(
                r for r, f in builds.items() if isinstance(f, dict) and not f.get("revoked")
            )
            usable = ", ".join(f"`{r}`" for r in others) or "none"
            raise RevokedError(
                f"build `{ref}` of template `{name}` on target `{target}` is revoked:"
                f" {record.revoked}; builds that may be used: {usable}",
                hint=f"build it anew: `template-builder build {name} --target {target} --force`",
            )
        return record

    def _targets(self, name: str) -> dict[str, dict[str, Any]]:
        if name not in self.templates:
            raise UnknownTemplateError(
                f"no template `{name}` in {self.path}, which has {_count(self.templates)}",
                hint=did_you_mean(name, self.templates)
                or "`template-builder list` shows what there is",
            )
        targets = self.templates[name]
        if not isinstance(targets, dict) or not all(isinstance(t, dict) for t in targets.values()):
            raise RegistryError(
                f"{self.path}: the entry of template `{name}` is not a table of targets",
                hint="restore the file from git",
            )
        return targets

    def checked(self) -> Registry:
        """The registry itself, after a look at every entry: for who works with all of it.

        Raises `RegistryError` naming the first value of a type that it cannot be.
        """
        for name in self.templates:
            for target, entry in self._targets(name).items():
                channels = self._table(entry, "channels", name, target)
                builds = self._table(entry, "builds", name, target)
                for what, value, kind in _typed(channels, builds):
                    if not isinstance(value, kind):
                        raise RegistryError(
                            f"{self.path}: {what} of template `{name}` on `{target}` is"
                            f" {json.dumps(value)[:80]}, expected {_KINDS[kind]}",
                            hint="restore the file from git",
                        )
        return self

    def _table(self, entry: dict[str, Any], key: str, name: str, target: str) -> dict[str, Any]:
        table = entry.get(key, {})
        if not isinstance(table, dict):
            raise RegistryError(
                f"{self.path}: `{key}` of template `{name}` on `{target}` is not a table",
                hint="restore the file from git",
            )
        return table

    def _default(self, name: str, targets: dict[str, dict[str, Any]]) -> str:
        if "e2b" in targets:
            return "e2b"
        if len(targets) == 1:
            return next(iter(targets))
        built = ", ".join(f"`{t}`" for t in sorted(targets)) or "none"
        raise NotBuiltError(
            f"template `{name}` needs a target to be named; it is built for: {built}"
            f" (in {self.path})",
            hint='pass target="…" or set TEMPLATE_TARGET',
        )


def _typed(channels: dict[str, Any], builds: dict[str, Any]) -> Iterator[tuple[str, Any, type]]:
    """What the value is, the value, and the type that it must have."""
    for channel, ref in channels.items():
        yield f"channel `{channel}`", ref, str
    for ref, fields in builds.items():
        yield f"build `{ref}`", fields, dict
        if isinstance(fields, dict):
            for key, kind in _TYPES.items():
                if fields.get(key) is not None:
                    yield f"`{key}` of build `{ref}`", fields[key], kind
            for part, value in (fields.get("inputs") or {}).items():
                yield f"`inputs.{part}` of build `{ref}`", value, dict


def _count(templates: dict[str, Any]) -> str:
    return "1 template" if len(templates) == 1 else f"{len(templates)} templates"


def find() -> str:
    """The registry file in use: `TEMPLATE_REGISTRY`, the nearest one upwards, the shipped one.

    Raises `RegistryError` naming every place tried when there is none.
    """
    named = os.environ.get("TEMPLATE_REGISTRY")
    if named:
        return named
    tried = []
    folder = os.getcwd()
    while True:
        candidate = os.path.join(folder, FILE_NAME)
        if os.path.isfile(candidate):
            return candidate
        tried.append(candidate)
        parent = os.path.dirname(folder)
        if parent == folder:
            break
        folder = parent
    package = os.path.dirname(os.path.abspath(__file__))
    for folder in (package, os.path.dirname(package)):
        candidate = os.path.join(folder, FILE_NAME)
        if os.path.isfile(candidate):
            return candidate
        tried.append(candidate)
    raise RegistryError(
        "no registry.json found; tried:\n" + "\n".join(f"  {place}" for place in tried),
        hint="set TEMPLATE_REGISTRY, or run `template-builder build` in the project",
    )


def parse(text: str, path: str) -> Registry:
    """Parse the text of a registry file; `path` is named in errors. Raises `RegistryError`."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RegistryError(
            f"{path} is not a registry: {error}",
            hint="restore the file from git; a run never leaves it half written",
        ) from error
    if not isinstance(data, dict) or not isinstance(data.get("templates"), dict):
        raise RegistryError(
            f"{path} is not a registry: expected an object with `version` and `templates`",
            hint="restore the file from git",
        )
    version = data.get("version")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise RegistryError(
            f"{path} is not a registry: `version` is {version!r}, expected {VERSION}",
            hint="restore the file from git",
        )
    if version > VERSION:
        raise RegistryVersionError(
            f"{path} has version {version}; this program reads up to version {VERSION}",
            hint="upgrade template-builder",
        )
    return Registry(data, path)


def load(path: str | os.PathLike[str] | None = None) -> Registry:
    """Read a registry file. `path` defaults to the one in use (see `find`)."""
    path = os.fspath(path or find())
    try:
        # Not `open`, which would wait for a writer where somebody put a pipe in the file's place.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), encoding="utf-8") as file:
            text = file.read()
    except UnicodeDecodeError as error:
        raise RegistryError(
            f"{path} is not a registry: {error}", hint="restore the file from git"
        ) from error
    except OSError as error:
        raise RegistryError(
            f"{path} cannot be read: {error.strerror}",
            hint="check TEMPLATE_REGISTRY, or run `template-builder build` in the project",
        ) from error
    return parse(text, path)


def lookup(
    name: str,
    *,
    target: str | None = None,
    channel: str = DEFAULT_CHANNEL,
    path: str | os.PathLike[str] | None = None,
) -> Record:
    """Return the `Record` of a template; see `Registry.lookup` for the rules and errors."""
    return load(path).lookup(name, target=target, channel=channel)


def resolve(
    name: str,
    *,
    target: str | None = None,
    channel: str = DEFAULT_CHANNEL,
    path: str | os.PathLike[str] | None = None,
) -> str:
    """Return what a sandbox of template `name` is created from: `"template_id:build_id"`.

    Raises the `LookupError`s of `Registry.lookup`; never returns another build instead.
    """
    return lookup(name, target=target, channel=channel, path=path).ref
