"""Where a project keeps its things, and its settings in `[tool.template-builder]`.

It finds and reads; it checks the settings, not the variants.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builder.errors import ProjectError, did_you_mean

__all__ = ["Project", "TargetSettings"]

TARGET_KINDS = ("e2b", "local")
_TARGET_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
TARGET_KEYS = ("api-key-env", "domain", "kind")


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetSettings:
    """A place to build on; `api_key_env` names the variable that holds the key, never the key."""

    name: str
    kind: str
    domain: str | None = None
    api_key_env: str | None = None


BUILT_IN_TARGETS = {
    "e2b": TargetSettings(name="e2b", kind="e2b", api_key_env="E2B_API_KEY"),
    "local": TargetSettings(name="local", kind="local"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Project:
    """The folders and files of one project."""

    root: Path
    targets: dict[str, TargetSettings] = field(default_factory=lambda: dict(BUILT_IN_TARGETS))

    @property
    def variants(self) -> Path:
        """The TOML specs."""
        return self.root / "variants"

    @property
    def generated(self) -> Path:
        """What they render to; committed."""
        return self.root / "generated"

    @property
    def registry(self) -> Path:
        """The registry file that this project's builds are recorded in."""
        named = os.environ.get("TEMPLATE_REGISTRY")
        return Path(named) if named else self.root / "registry.json"

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
        return cls(root=root, targets=_targets(root / "pyproject.toml"))


def _targets(path: Path) -> dict[str, TargetSettings]:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ProjectError(f"{path} is not a regular file")
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return dict(BUILT_IN_TARGETS)
    except (ValueError, RecursionError) as error:
        raise ProjectError(f"{path} is not valid TOML: {error}") from error
    except OSError as error:
        raise ProjectError(f"{path} cannot be read: {error.strerror}") from error
    tool = document.get("tool", {})
    _check_keys(tool, None, f"{path}: [tool]")
    settings = tool.get("template-builder", {})
    where = f"{path}: [tool.template-builder"
    _check_keys(settings, ("targets",), f"{where}]")
    entries = settings.get("targets", {})
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


def _check_keys(table: Any, known: tuple[str, ...] | None, place: str) -> None:
    if not isinstance(table, dict):
        raise ProjectError(f"{place}: expected a table")
    for key in table if known else ():
        if known and key not in known:
            raise ProjectError(f"{place}: unknown key `{key}`", hint=did_you_mean(key, known))
