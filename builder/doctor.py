"""What this machine and project can do: facts, each with what to do where it falls short."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from builder import pipeline, uv_tool
from builder.errors import EngineUnavailableError, TemplateError, from_os_error
from builder.files import cache_folder
from builder.project import PrecheckSettings, Project

__all__ = ["Finding", "examine"]

_LOW_SPACE_BYTES = 8 << 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One fact; `error` is set when the main job cannot work because of it."""

    state: str
    what: str
    found: str
    error: TemplateError | None = None

    def to_json(self) -> dict[str, str | None]:
        """The finding as plain values."""
        return {"state": self.state, "what": self.what, "found": self.found}


def examine(project: Path | None) -> list[Finding]:
    """Look at everything that the commands rely on; never raises for what it finds."""
    findings = [
        _tried("Python", lambda: f"{platform.python_version()} on {platform.platform()}"),
        _tried("uv", lambda: uv_tool.run(["--version"], doing="asking uv").strip()),
        _tried("environments", _environments),
        _space(),
        _docker(),
    ]
    try:
        place = Project.find(project)
    except TemplateError as error:
        return [*findings, Finding(state="no", what="project", found=error.message, error=error)]
    findings.append(Finding(state="ok", what="project", found=str(place.root)))
    findings += _keys(place)
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
    made = len(list((folder / "environments").glob("sha256-*")))
    cache = Path(uv_tool.run(["cache", "dir"], doing="asking uv").strip())
    linked = cache.exists() and cache.stat().st_dev == folder.stat().st_dev
    how = "linked to uv's cache" if linked else "copied, since uv's cache is on another disk"
    return f"{made} in {folder}; files are {how}"


def _space() -> Finding:
    folder = cache_folder()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    enough = free >= _LOW_SPACE_BYTES
    note = "" if enough else "; the PyTorch variants may need 8 GiB"
    return Finding(
        state="ok" if enough else "low",
        what="free space",
        found=f"{free / 2**30:.0f} GiB for environments{note}",
    )


def _docker() -> Finding:
    from builder.docker_engine import DockerEngine

    try:
        engine = DockerEngine(PrecheckSettings())
    except EngineUnavailableError as error:
        found = f"{error.message}; only precheck needs one"
        return Finding(state="-", what="docker", found=found)
    engine.close()
    return Finding(state="ok", what="docker", found=f"engine {engine.identity.split()[-1]}")


def _keys(place: Project) -> Iterator[Finding]:
    """For every account, that its key is set, and nothing else of it."""
    for settings in place.targets.values():
        if settings.kind == "e2b":
            is_set = bool(os.environ.get(settings.api_key_env or ""))
            yield Finding(
                state="ok" if is_set else "-",
                what=f"target {settings.name}",
                found=f"{settings.api_key_env} is {'set' if is_set else 'not set'}",
            )


def _project(place: Project) -> Iterator[Finding]:
    yield _tried("variants", lambda: f"{len(pipeline.select(place, []))} valid")
    yield _tried(
        "registry",
        lambda: f"{len(pipeline.read_registry(place).templates)} templates in {place.registry}",
    )
