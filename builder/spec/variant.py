"""A resolved variant: frozen values, with its whole chain of stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

WarmupLevel = Literal["none", "disk", "memory"]
SHARED_PREFIX = "shared-"


def stage_name(stem: str) -> str:
    """Return the name that the Dockerfile gives to the stage of a spec."""
    return f"{SHARED_PREFIX}{stem[1:]}" if stem.startswith("_") else stem


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """Code that must succeed within `timeout` seconds, and print `stdout` if that is set."""

    name: str
    code: str
    stdout: str | None
    timeout: int


@dataclass(frozen=True, kw_only=True, slots=True)
class FileEntry:
    """A file of the variants folder and its target; `mode` is octal text such as "0644"."""

    source: str
    target: str
    mode: str
    content: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Download:
    """A file at a URL and its target; `sha256` is the hash that it must have, if the spec says so.

    `mode` is octal text; None keeps the modes in the archive to `extract`. `number` is its place in
    the spec.
    """

    url: str
    sha256: str | None
    target: str
    owner: str
    mode: str | None
    extract: bool
    number: int = field(compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """What one spec adds to a template.

    `stem` is the file's name without .toml, `source` its path as shown in messages, `path` its path
    on disk, if it was read from there. `env_instruction` is `env` with references to variables of
    earlier stages. `declared` is its content as canonical JSON, without keys
    that only describe it.
    """

    stem: str
    source: str
    env: Mapping[str, str] = field(default_factory=dict)
    env_instruction: Mapping[str, str] = field(default_factory=dict)
    system: tuple[str, ...] = ()
    requirements: tuple[str, ...] = ()
    torch_backend: str | None = None
    downloads: tuple[Download, ...] = ()
    files: tuple[FileEntry, ...] = ()
    checks: tuple[Check, ...] = ()
    declared: str = ""
    path: Path | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """A buildable spec: its chain of stages, root first, and the values merged along it."""

    name: str
    stem: str = ""
    source: str = ""
    description: str = ""
    stages: tuple[Stage, ...]
    image: str = ""
    python: str = ""
    python_floor: str = ""
    env: Mapping[str, str]
    command: tuple[str, ...] = ()
    ready_url: str | None = None
    ready_command: tuple[str, ...] = ()
    ready_port: int | None = None
    cpu: int
    memory_mb: int
    free_disk_mb: int | None = None
    level: WarmupLevel
    imports: tuple[str, ...]
    reseed: str = ""
    accept_broken: tuple[str, ...] = ()
    not_imported: tuple[str, ...] = ()

    @property
    def ready_key(self) -> str:
        """The key of `[service]` that says when the service is ready."""
        if self.ready_command:
            return "ready-command"
        return "ready-port" if self.ready_port else "ready-url"

    @property
    def checks(self) -> tuple[Check, ...]:
        """Return the checks of the whole chain, root first."""
        return tuple(check for stage in self.stages for check in stage.checks)

    @property
    def requirements(self) -> tuple[str, ...]:
        """Return the requirements of the whole chain, root first."""
        return tuple(text for stage in self.stages for text in stage.requirements)
