"""Where a project keeps its things, and its settings in `[tool.template-builder]`.

It finds and reads; it checks the settings, not the variants.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builder.documents import parse_toml
from builder.errors import ProjectError, TargetUnavailableError, did_you_mean
from builder.regular_file import read_regular

__all__ = [
    "PRECHECK_WHEN",
    "PrecheckSettings",
    "Project",
    "TargetSettings",
    "target_called",
    "target_here",
]

PRECHECK_WHEN = ("always", "auto", "never")
PRECHECK_KEYS = ("build-args", "ca-bundle", "network", "ready-seconds", "when")
TARGET_KINDS = ("e2b", "local")
_LARGEST_BYTES = 1 << 20
_TARGET_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
TARGET_KEYS = ("api-key-env", "domain", "kind")


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetSettings:
    """A place to build on; `api_key_env` names the variable that holds the key, never the key."""

    name: str
    kind: str
    domain: str | None = None
    api_key_env: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PrecheckSettings:
    """How `precheck` builds: `network` is Docker's network mode, `ca_bundle` a file of certificates
    that a build behind a proxy must trust, `build_args` go to every build. A service that is not
    ready after `ready_seconds` is not waited for; E2B waits for ten minutes, too."""

    when: str = "auto"
    network: str | None = None
    build_args: Mapping[str, str] = field(default_factory=dict)
    ca_bundle: str | None = None
    ready_seconds: int = 600


BUILT_IN_TARGETS = {
    "e2b": TargetSettings(name="e2b", kind="e2b", api_key_env="E2B_API_KEY"),
    "local": TargetSettings(name="local", kind="local"),
}


def target_called(name: str, targets: Mapping[str, TargetSettings]) -> TargetSettings:
    """One of `targets`. Raises `TargetUnavailableError`, with near matches."""
    if name not in targets:
        raise TargetUnavailableError(
            f"there is no target `{name}`; there are: {', '.join(sorted(targets))}",
            hint=did_you_mean(name, targets),
        )
    return targets[name]


def target_here(name: str, start: Path | None = None) -> TargetSettings:
    """The target called `name` of the project at `start`, or of the nearest one; where there is
    none, of those that every project has. Raises `TargetUnavailableError`, `ProjectError`."""
    try:
        targets: Mapping[str, TargetSettings] = Project.find(start).targets
    except ProjectError:
        if name not in BUILT_IN_TARGETS:
            raise
        targets = BUILT_IN_TARGETS
    return target_called(name, targets)


@dataclass(frozen=True, kw_only=True, slots=True)
class Project:
    """The folders and files of one project."""

    root: Path
    shared_registry: str | None = None
    targets: dict[str, TargetSettings] = field(default_factory=lambda: dict(BUILT_IN_TARGETS))
    precheck: PrecheckSettings = field(default_factory=PrecheckSettings)

    @property
    def variants(self) -> Path:
        """The TOML specs."""
        return self.root / "variants"

    @property
    def generated(self) -> Path:
        """What they render to; committed."""
        return self.root / "generated"

    @property
    def registry(self) -> str:
        """Where this project's builds are recorded: the path of a file, or the URL of an object."""
        if named := os.environ.get("TEMPLATE_REGISTRY"):
            return named
        named = self.shared_registry or "registry.json"
        return named if "://" in named else os.path.join(self.root, named)

    @property
    def schemas(self) -> Path:
        """The JSON schemas for editors; committed."""
        return self.root / "schemas"

    @property
    def state(self) -> Path:
        """Logs and locks; never committed."""
        return self.root / ".builder"

    @classmethod
    def find(cls, start: Path | None = None) -> Project:
        """The project at `start` (a folder), or the nearest one from the working directory upwards.

        Raises `ProjectError` when there is none or its settings are wrong.
        """
        if start is not None:
            root = start.absolute()
            if not (root / "variants").is_dir():
                raise ProjectError(
                    f"`{start}` is not a project: it has no `variants` folder",
                    hint="name the folder that holds `variants` with --project",
                )
        else:
            here = Path.cwd()
            roots = [f for f in (here, *here.parents) if (f / "variants").is_dir()]
            if not roots:
                raise ProjectError(
                    f"no project here: no `variants` folder in {here} or above it",
                    hint="run the command inside a project, or name one with --project",
                )
            root = roots[0]
        settings = _settings(root / "pyproject.toml")
        where = f"{root / 'pyproject.toml'}: [tool.template-builder"
        return cls(
            root=root,
            shared_registry=_text(settings, "registry", f"{where}]"),
            targets=_targets(settings.get("targets", {}), where),
            precheck=_precheck(settings.get("precheck", {}), f"{where}.precheck]", root),
        )


def _settings(path: Path) -> dict[str, Any]:
    try:
        document = parse_toml(read_regular(path, _LARGEST_BYTES).decode())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ProjectError(f"{path} is not valid TOML: {error}") from error
    except OSError as error:
        raise ProjectError(f"{path} cannot be read: {error.strerror}") from error
    tool = document.get("tool", {})
    _check_keys(tool, None, f"{path}: [tool]")
    settings: dict[str, Any] = tool.get("template-builder", {})
    _check_keys(settings, ("precheck", "registry", "targets"), f"{path}: [tool.template-builder]")
    return settings


def _precheck(entry: Any, place: str, root: Path) -> PrecheckSettings:
    _check_keys(entry, PRECHECK_KEYS, place)
    when, arguments = entry.get("when", "auto"), entry.get("build-args", {})
    if when not in PRECHECK_WHEN:
        raise ProjectError(f"{place}: `when` is {when!r}, expected one of {PRECHECK_WHEN}")
    _check_keys(arguments, None, f"{place}: `build-args`")
    texts = {k: v for k, v in entry.items() if k in ("network", "ca-bundle")} | arguments
    for key, value in texts.items():
        if not isinstance(value, str):
            raise ProjectError(f"{place}: `{key}` is {value!r}, expected a string")
    bundle, ready = entry.get("ca-bundle"), entry.get("ready-seconds", 600)
    if type(ready) is not int or ready < 1:
        raise ProjectError(f"{place}: `ready-seconds` is {ready!r}, expected a whole number")
    return PrecheckSettings(
        when=when,
        network=entry.get("network"),
        build_args=dict(arguments),
        ca_bundle=str(root / bundle) if bundle else None,
        ready_seconds=ready,
    )


def _targets(entries: Any, where: str) -> dict[str, TargetSettings]:
    _check_keys(entries, None, f"{where}.targets]")
    targets = dict(BUILT_IN_TARGETS)
    for name, entry in entries.items():
        targets[name] = _target(name, entry, f"{where}.targets")
    return targets


def _target(name: str, entry: Any, where: str) -> TargetSettings:
    if not _TARGET_NAME.fullmatch(name):
        raise ProjectError(
            f"{where}]: {name!r} is not the name of a target, which holds a-z, 0-9, - and _"
        )
    place = f"{where}.{name}]"
    _check_keys(entry, TARGET_KEYS, place)
    kind = entry.get("kind")
    if kind not in TARGET_KINDS:
        raise ProjectError(f"{place}: `kind` is {kind!r}, expected one of {TARGET_KINDS}")
    if name in BUILT_IN_TARGETS and kind != BUILT_IN_TARGETS[name].kind:
        raise ProjectError(
            f"{place}: `kind` is {kind!r}, but the target `{name}` is always of its own kind",
            hint="give the target another name",
        )
    for key, value in entry.items():
        if not isinstance(value, str):
            raise ProjectError(f"{place}: `{key}` is {value!r}, expected a string")
    return TargetSettings(
        name=name,
        kind=kind,
        domain=entry.get("domain"),
        api_key_env=entry.get("api-key-env", "E2B_API_KEY" if kind == "e2b" else None),
    )


def _text(table: Mapping[str, Any], key: str, place: str) -> str | None:
    value = table.get(key)
    if value is not None and (not isinstance(value, str) or not value):
        raise ProjectError(f"{place}: `{key}` is {value!r}, expected a string")
    return value


def _check_keys(table: Any, known: tuple[str, ...] | None, place: str) -> None:
    if not isinstance(table, dict):
        raise ProjectError(f"{place}: expected a table")
    for key in table if known else ():
        if known and key not in known:
            raise ProjectError(f"{place}: unknown key `{key}`", hint=did_you_mean(key, known))
