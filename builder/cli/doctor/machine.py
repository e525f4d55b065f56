"""Checks of this machine and the project, each with a hint if it fails."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from builder import registry, workflow
from builder.errors import (
    EngineUnavailableError,
    RegistryError,
    StorageError,
    TemplateError,
    counted,
    from_os_error,
)
from builder.errors.visible import one_line
from builder.precheck import connect_engine
from builder.project import PrecheckSettings, Project, TargetSettings
from builder.registry import history
from builder.registry.chain import checksum
from builder.registry.model import Contents
from builder.system import provenance, uv
from builder.system.files import cache_folder

_LOW_SPACE_BYTES = 8 << 30
_SHOWN = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """The result of a check; `error` is set if template-builder cannot build because of it."""

    state: str
    what: str
    found: str
    error: TemplateError | None = None

    def to_json(self) -> dict[str, str | None]:
        """Return the finding as plain values."""
        return {"state": self.state, "what": self.what, "found": self.found}


def examine(project: Path | None) -> list[Finding]:
    """Check everything that the commands rely on. Problems are findings, not exceptions."""
    findings = [
        _tried("Python", lambda: f"{platform.python_version()} on {platform.platform()}"),
        _tried("uv", lambda: uv.run(["--version"], doing="asking uv").strip()),
        _tried("environments", _environments),
        *_space(),
        _isolation(),
        _docker(),
    ]
    try:
        place = Project.find(project)
    except TemplateError as error:
        return [*findings, Finding(state="no", what="project", found=error.message, error=error)]
    findings.append(Finding(state="ok", what="project", found=str(place.root)))
    findings += _accounts(place)
    findings += _project(place)
    return findings


def _tried(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(state="ok", what=what, found=look())
    except TemplateError as error:
        return Finding(state="no", what=what, found=error.message, error=error)


def _environments() -> str:
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise from_os_error(error, "keeping environments") from error
    count = len(list((folder / "environments").glob("sha256-*")))
    cache = Path(uv.run(["cache", "dir"], doing="asking uv").strip())
    linked = cache.exists() and cache.stat().st_dev == folder.stat().st_dev
    how = "linked to uv's cache" if linked else "copied, since uv's cache is on another disk"
    return f"{count} in {folder}; files are {how}"


def _space() -> Iterator[Finding]:
    try:
        folder = cache_folder()
    except StorageError:
        return  # `_environments` reports it
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    enough = free >= _LOW_SPACE_BYTES
    note = "" if enough else "; PyTorch templates may need 8 GiB"
    yield Finding(
        state="ok" if enough else "low",
        what="free space",
        found=f"{free / 2**30:.0f} GiB for environments{note}",
    )


def _isolation() -> Finding:
    from builder.targets.local.confine import bubblewrap

    try:
        program = bubblewrap.working()
    except bubblewrap.ConfinementError as error:
        return Finding(state="no", what="isolation", found=f"{error.message}; {error.hint}")
    return Finding(
        state="ok", what="isolation", found=f"sandboxes on this machine are confined by {program}"
    )


def _docker() -> Finding:
    try:
        engine = connect_engine(PrecheckSettings())
    except EngineUnavailableError as error:
        text = f"{error.message}; only precheck needs one"
        return Finding(state="-", what="docker", found=text)
    engine.close()
    return Finding(state="ok", what="docker", found=f"engine {engine.identity.split()[-1]}")


def _accounts(place: Project) -> Iterator[Finding]:
    """Check with one small request for each target that its account accepts the key."""
    for settings in place.targets.values():
        check = f"target {settings.name}"
        variable = settings.api_key_env
        if variable and not os.environ.get(variable, "").strip():
            text = f"{variable} is not set; only this target needs it"
            yield Finding(state="-", what=check, found=text)
            continue
        finding = _tried(check, partial(_account, settings, place))
        text = f"{variable} is set; {finding.found}" if variable else finding.found
        yield replace(finding, found=text)


def _account(settings: TargetSettings, place: Project) -> str:
    from builder.targets.adapters import connect

    account = connect(settings, place).account
    return account() if account else "needs no account"


def _project(place: Project) -> Iterator[Finding]:
    yield _tried("specs", lambda: f"{len(workflow.variants_called(place, []))} valid")
    try:
        recorded = workflow.read_registry(place)
    except TemplateError as error:
        yield Finding(state="no", what="registry", found=error.message, error=error)
        return
    faults = list(history.faults(recorded.templates))
    size = f"{counted(len(recorded.templates), 'template')} in {recorded.path}"
    yield Finding(state="ok", what="registry", found=size)
    if not faults:
        return
    committed = _committed(place)
    texts = [_precisely(fault, recorded.contents, committed) for fault in faults]
    places = counted(len(texts), "place")
    broken = RegistryError(
        "\n  ".join(
            [
                f"{recorded.path} was modified outside template-builder, in {places}:",
                *map(one_line, texts[:_SHOWN]),
            ]
        ),
        hint="restore it from git, or accept it as it is with `template-builder registry repair`",
    )
    for text in texts:
        yield Finding(state="no", what="registry", found=text, error=broken)


def _committed(place: Project) -> Contents | None:
    """Return the registry of the last commit; None if there is none."""
    if registry.is_url(place.registry):
        return None
    text = provenance.committed(Path(place.registry))
    try:
        return registry.parse(text, place.registry).contents if text else None
    except TemplateError:
        return None


def _precisely(fault: history.Fault, recorded: Contents, committed: Contents | None) -> str:
    """Describe the fault, with the edited keys if the committed record shows them."""
    if fault.kind != "record" or committed is None:
        return str(fault)

    def record_of(contents: Contents) -> dict[str, Any]:
        build = contents.entry(fault.name, fault.target).builds.get(fault.subject)
        return build.to_json() if build else {}

    before = record_of(committed)
    if not before or checksum(before) != before.get("checksum"):
        return str(fault)
    old, new = _flat(before), _flat(record_of(recorded))
    changed = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    edits = [f"{key}: {old.get(key)} → {new.get(key)}" for key in changed[:_SHOWN]]
    return f"{fault}; since the last commit: {', '.join(edits)}" if edits else str(fault)


def _flat(value: Any, path: str = "") -> dict[str, str]:
    if not isinstance(value, dict):
        return {path: json.dumps(value)}
    return {
        key: text
        for name, item in value.items()
        for key, text in _flat(item, f"{path}.{name}" if path else name).items()
    }
