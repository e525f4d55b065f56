"""The folders of a project, and its settings in `[tool.template-builder]`."""

from __future__ import annotations

import contextlib
import enum
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from builder.errors import ProjectError, TargetUnavailableError, did_you_mean
from builder.system.isolation import EXPECTED, ISOLATIONS, Isolation, isolation_of
from builder.system.settings import Settings, read_settings

PRECHECK_KEYS = ("build-args", "ca-bundle", "network", "ready-seconds", "when")
_TARGET_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
TARGET_KEYS = ("api-key-env", "api-url", "domain", "kind", "sandbox-url")
URL_KEYS = ("api-url", "sandbox-url")
_URL = re.compile(r"https?://(?:\[[0-9A-Fa-f:.]+\]|[\w.-]+)(?::[0-9]+)?(?:/[^\s?#]*)?")


class TargetKind(enum.StrEnum):
    """The kind of a target: an account on E2B, or this machine."""

    E2B = "e2b"
    LOCAL = "local"


TARGET_KINDS = tuple(kind.value for kind in TargetKind)

_ZYGOTES = ("keep", "end")
_EXPECTED_ZYGOTE = '"keep" or "end"'


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetSettings:
    """A place to build on; `api_key_env` is the name of the variable with the key.

    `api_url` and `sandbox_url` are the addresses of E2B's API and sandboxes if they do not follow
    from the domain.
    """

    name: str
    kind: TargetKind
    domain: str | None = None
    api_key_env: str | None = None
    api_url: str | None = None
    sandbox_url: str | None = None

    @property
    def has_account(self) -> bool:
        """Whether it is an account with a key, not this machine."""
        return self.kind is TargetKind.E2B

    @property
    def builds_dockerfile(self) -> bool:
        """Whether it builds from the rendered Dockerfile."""
        return self.kind is TargetKind.E2B


class PrecheckWhen(enum.StrEnum):
    """When `build` pre-checks; `auto`: if an engine is available and the target builds from the
    Dockerfile."""

    auto = "auto"
    always = "always"
    never = "never"


@dataclass(frozen=True, kw_only=True, slots=True)
class PrecheckSettings:
    """How `precheck` builds: `network` is Docker's network mode, `ca_bundle` a file of certificates
    to trust behind a proxy, `build_args` are passed to every build. `ready_seconds` is how long to
    wait for a service, by default ten minutes, as on E2B."""

    when: PrecheckWhen = PrecheckWhen.auto
    network: str | None = None
    build_args: Mapping[str, str] = field(default_factory=dict)
    ca_bundle: str | None = None
    ready_seconds: int = 600


BUILT_IN_TARGETS = {
    "e2b": TargetSettings(name="e2b", kind=TargetKind.E2B, api_key_env="E2B_API_KEY"),
    "local": TargetSettings(name="local", kind=TargetKind.LOCAL),
}


def address_error(url: str) -> str | None:
    """Return why `url` is not the address of a server, without repeating a password in it."""
    if "@" in url:
        return "contains a user name or a password, which messages and logs would show"
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        # Raises `ValueError` for a port out of range and for a name with an empty part.
        if _URL.fullmatch(url) and parts.port != 0 and (parts.hostname or "").encode("idna"):
            return None
    return f"is {url!r}, expected a URL such as `https://e2b.example.com`"


def domain_error(domain: str) -> str | None:
    """Return why `domain` is not the domain of a cluster, like `address_error`."""
    wrong = address_error(f"https://{domain}")
    if "@" in domain or (wrong is None and "/" not in domain):
        return wrong
    return f"is {domain!r}, expected a domain such as `e2b.example.com`"


def target_called(name: str, targets: Mapping[str, TargetSettings]) -> TargetSettings:
    """Return one of `targets`. Raise `TargetUnavailableError` with near matches."""
    if name not in targets:
        raise TargetUnavailableError(
            f"there is no target `{name}`; there are: {', '.join(sorted(targets))}",
            hint=did_you_mean(name, targets),
        )
    return targets[name]


def target_here(name: str, start: Path | None = None) -> TargetSettings:
    """Return the target `name` of the project at `start` or the nearest project, else a built-in
    target. Raise `TargetUnavailableError`, `ProjectError`."""
    targets: Mapping[str, TargetSettings] = BUILT_IN_TARGETS
    if start or name not in targets or Project.nearest():
        targets = Project.find(start).targets
    return target_called(name, targets)


def _working_folder() -> str:
    try:
        return os.getcwd()
    except OSError as error:
        return f"the working directory ({error.strerror})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Project:
    """The folders, files and settings of a project.

    `accept_fallback` allows builds in the cloud of locks that fell back to the default index.
    `isolation` is that of sandboxes on this machine, None if the settings do not say. With
    `keep_zygote`, the processes that they are forked from outlive programs.
    """

    root: Path
    shared_registry: str | None = None
    targets: dict[str, TargetSettings] = field(default_factory=lambda: dict(BUILT_IN_TARGETS))
    precheck: PrecheckSettings = field(default_factory=PrecheckSettings)
    accept_fallback: bool = False
    isolation: Isolation | None = None
    keep_zygote: bool = False

    @property
    def variants(self) -> Path:
        """The specs."""
        return self.root / "variants"

    @property
    def generated(self) -> Path:
        """The rendered files; committed."""
        return self.root / "generated"

    @property
    def registry(self) -> str:
        """The registry: the path of a file, or the URL of an object."""
        if named := os.environ.get("TEMPLATE_REGISTRY"):
            return named
        named = self.shared_registry or "registry.json"
        return named if "://" in named else os.path.join(self.root, named)

    @property
    def schemas(self) -> Path:
        """JSON schemas for editors; committed."""
        return self.root / "schemas"

    @property
    def state(self) -> Path:
        """Logs and other local state; never committed."""
        return self.root / ".builder"

    @staticmethod
    def nearest() -> Path | None:
        """Return the folder of the nearest project from the working directory upwards, if any."""
        try:
            here = Path.cwd()
        except OSError:  # it no longer exists
            return None
        return next((f for f in (here, *here.parents) if (f / "variants").is_dir()), None)

    @classmethod
    def find(cls, start: Path | None = None) -> Project:
        """Return the project in the folder `start`, by default the nearest one upwards.

        Raise `ProjectError` if there is none, or its settings are wrong.
        """
        root = start.absolute() if start else cls.nearest()
        if root is None:
            raise ProjectError(
                f"no project here: no `variants` folder in {_working_folder()} or above it",
                hint="create one with `template-builder init`, or select one with --project",
            )
        if not (root / "variants").is_dir():
            raise ProjectError(
                f"`{start}` is not a project: it has no `variants` folder",
                hint="select the folder that contains `variants` with --project",
            )
        settings = read_settings(str(root / "pyproject.toml"))
        return cls(
            root=root,
            shared_registry=settings.registry,
            targets=_targets(settings),
            precheck=_precheck(settings, root),
            accept_fallback=_switch(settings, "accept-fallback"),
            isolation=_isolation(settings),
            keep_zygote=_keeps(settings),
        )


def isolation_here(requested: str | None) -> Isolation:
    """Return the requested isolation of sandboxes on this machine, else that in the settings of the
    nearest project. Raises `ValueError`, `ProjectError`."""
    setting = None
    if requested is None and Project.nearest():
        setting = Project.find().isolation
    return isolation_of(requested, setting)


def keeps_zygotes() -> bool:
    """Return whether zygotes outlive programs, by TEMPLATE_ZYGOTE or the settings of the nearest
    project. Raises `ProjectError`."""
    variable = os.environ.get("TEMPLATE_ZYGOTE", "").strip()
    if variable not in ("", *_ZYGOTES):
        raise ProjectError(f"TEMPLATE_ZYGOTE is {variable!r}, expected {_EXPECTED_ZYGOTE}")
    if variable:
        return variable == "keep"
    return Project.nearest() is not None and Project.find().keep_zygote


def _keeps(settings: Settings) -> bool:
    value = settings.table.get("zygote")
    if value not in (None, *_ZYGOTES):
        raise settings.wrong_value("", "zygote", value, _EXPECTED_ZYGOTE)
    return value == "keep"


def _isolation(settings: Settings) -> Isolation | None:
    value = settings.table.get("isolation")
    if value is not None and value not in ISOLATIONS:
        raise settings.wrong_value("", "isolation", value, EXPECTED)
    return value


def _precheck(settings: Settings, root: Path) -> PrecheckSettings:
    table = "precheck"
    entry = settings.table.get(table, {})
    settings.check_keys(entry, table, PRECHECK_KEYS)
    when, arguments = entry.get("when", "auto"), entry.get("build-args", {})
    if when not in (choices := tuple(choice.value for choice in PrecheckWhen)):
        raise settings.wrong_value(table, "when", when, f"one of {choices}")
    settings.check_keys(arguments, f"{table}.build-args")
    _check_texts(settings, entry, table, ("network", "ca-bundle"))
    _check_texts(settings, arguments, f"{table}.build-args", arguments)
    bundle, ready = entry.get("ca-bundle"), entry.get("ready-seconds", 600)
    if type(ready) is not int or ready < 1:
        raise settings.wrong_value(table, "ready-seconds", ready, "a whole number")
    return PrecheckSettings(
        when=PrecheckWhen(when),
        network=entry.get("network"),
        build_args=dict(arguments),
        ca_bundle=str(root / bundle) if bundle else None,
        ready_seconds=ready,
    )


def _targets(settings: Settings) -> dict[str, TargetSettings]:
    entries = settings.table.get("targets", {})
    settings.check_keys(entries, "targets")
    return BUILT_IN_TARGETS | {n: _target(settings, n, entry) for n, entry in entries.items()}


def _target(settings: Settings, name: str, entry: Any) -> TargetSettings:
    if not _TARGET_NAME.fullmatch(name):
        message = f"{name!r} is not a name for a target, which consists of a-z, 0-9, - and _"
        raise settings.error("targets", message, key=name)
    table = f"targets.{name}"
    settings.check_keys(entry, table, TARGET_KEYS)
    kind = entry.get("kind")
    if kind not in TARGET_KINDS:
        raise settings.wrong_value(table, "kind", kind, f"one of {TARGET_KINDS}")
    if name in BUILT_IN_TARGETS and kind != BUILT_IN_TARGETS[name].kind:
        raise settings.error(
            table,
            f"`kind` is {kind!r}, but the built-in target `{name}` has a fixed kind",
            key="kind",
            hint="use another name for the target",
        )
    _check_texts(settings, entry, table, TARGET_KEYS)
    checks = {"domain": domain_error, **dict.fromkeys(URL_KEYS, address_error)}
    for key, check in checks.items():
        if key in entry and (wrong := check(entry[key])):
            raise settings.error(table, f"`{key}` {wrong}", key=key)
    for key, other in (URL_KEYS, URL_KEYS[::-1]):
        if key in entry and not entry.keys() & {other, "domain"}:
            message = f"`{key}` is set, but neither `{other}` nor `domain` is"
            hint = (
                "set both; a server of your own may have its API and sandboxes at the same address"
            )
            raise settings.error(table, message, key=key, hint=hint)
    api_url, sandbox_url = (entry.get(key, "").rstrip("/") or None for key in URL_KEYS)
    return TargetSettings(
        name=name,
        kind=TargetKind(kind),
        domain=entry.get("domain"),
        api_key_env=entry.get("api-key-env", "E2B_API_KEY" if kind == TargetKind.E2B else None),
        api_url=api_url,
        sandbox_url=sandbox_url,
    )


def _check_texts(
    settings: Settings, entry: Mapping[str, Any], table: str, keys: Iterable[str]
) -> None:
    for key in keys:
        if not isinstance(value := entry.get(key, ""), str):
            raise settings.wrong_value(table, key, value, "a string")


def _switch(settings: Settings, key: str) -> bool:
    value = settings.table.get(key, False)
    if not isinstance(value, bool):
        raise settings.wrong_value("", key, value, "true or false")
    return value
