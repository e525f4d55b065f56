"""A resolved variant: frozen values, with its whole chain of stages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from builder.sandbox.network import Network
from builder.sandbox.session import CODE_SERVICE_PORT
from builder.spec.parent import Parent, template_of

WarmupLevel = Literal["none", "disk", "memory"]
SHARED_PREFIX = "shared-"
DEFAULT_WORKDIR = "/home/user"
_SHOWN_OF_COMMAND = 60
# A line of a command that says only how or where the others run.
_PREPARING = re.compile(r"set -\S+( \S+)?|(mkdir -p \S+ && )?cd \S+|#.*")
# The names of the sandbox itself.
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
_CODE_SERVICE = re.compile(rf"\b{CODE_SERVICE_PORT}\b")


def is_local(url: str) -> bool:
    """Return whether a URL is that of a service in the sandbox itself."""
    return urlsplit(url).hostname in LOCAL_HOSTS


def stage_name(stem: str) -> str:
    """Return the name that the Dockerfile gives to the stage of a spec."""
    return f"{SHARED_PREFIX}{stem[1:]}" if stem.startswith("_") else stem


@dataclass(frozen=True, kw_only=True, slots=True)
class HttpRequest:
    """A request of a service in the sandbox, with the expected status and, if set, text."""

    url: str
    status: int
    contains: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """Code, a command or a request that must succeed within `timeout` seconds; the other two are
    None. Code must print `stdout` if that is set; so must a command, and exit with `exit_code`.
    """

    name: str
    code: str | None = None
    command: str | None = None
    exit_code: int | None = None
    http: HttpRequest | None = None
    stdout: str | None
    timeout: int


@dataclass(frozen=True, kw_only=True, slots=True)
class FileEntry:
    """A file of the variants folder and its target; `mode` is octal text such as "0644"."""

    source: str
    target: str
    mode: str
    content: bytes
    owner: str = "root"


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderEntry:
    """The files below a folder of the variants folder, or those that match a pattern, and the
    folders that are made for them, with their mode; `key` is that of the spec."""

    source: str
    target: str
    owner: str
    files: tuple[FileEntry, ...]
    folders: tuple[str, ...] = ()
    folder_mode: str = "0755"
    key: tuple[str | int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A command of a spec, or a script of the variants folder, which `inputs` are copied for.

    It runs as `user`, before or after the packages are installed, and may use the network or not.
    """

    command: str | None
    script: str | None
    user: str
    before_packages: bool
    inputs: tuple[FileEntry, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    network: bool = True

    @property
    def summary(self) -> str:
        """Return the first line of the command that says what it does, shortened, or the name of
        the script."""
        lines = [line.strip() for line in str(self.command).splitlines() if line.strip()]
        text = self.script or next(
            (line for line in lines if not _PREPARING.fullmatch(line)), lines[0]
        )
        return text if len(text) <= _SHOWN_OF_COMMAND else f"{text[:_SHOWN_OF_COMMAND]}…"


@dataclass(frozen=True, kw_only=True, slots=True)
class Repository:
    """A repository of Debian packages. Its key is a file of the project (`key`), or fetched from
    `key_url` and checked against `key_sha256`."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    key: bytes | None = None
    key_name: str = ""
    key_url: str | None = None
    key_sha256: str | None = None


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
class Model:
    """A model or dataset (`kind`) and its target.

    `location` is a repository of a hub, a URL, an address in an object store, or a path in the
    `project`. `revision` is that of a repository, `files` are patterns.
    """

    kind: Literal["model", "dataset"]
    source: Literal["repo", "url", "path"]
    location: str
    revision: str | None
    files: tuple[str, ...]
    target: str
    owner: str
    number: int = field(compare=False)
    project: Path = field(compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """A reference, in the value at `key`, to a variable that no spec of the chain has set before;
    the base image may set it. `known` are the names that are set there."""

    name: str
    key: tuple[str | int, ...]
    known: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """What one spec adds to a template.

    `stem` is the file's name without .toml, `source` its path as shown in messages, `path` its path
    on disk, if it was read from there. `wheels` are the files of the project among `requirements`.
    `env_instruction` is `env` with references to variables of earlier stages; `references` are
    those to other variables. `declared` is its content as canonical JSON, without keys that only
    describe it.
    """

    stem: str
    source: str
    env: Mapping[str, str] = field(default_factory=dict)
    env_instruction: Mapping[str, str] = field(default_factory=dict)
    references: tuple[Reference, ...] = ()
    system: tuple[str, ...] = ()
    requirements: tuple[str, ...] = ()
    torch_backend: str | None = None
    downloads: tuple[Download, ...] = ()
    node: tuple[str, ...] = ()
    repositories: tuple[Repository, ...] = ()
    models: tuple[Model, ...] = ()
    wheels: tuple[FileEntry, ...] = ()
    files: tuple[FileEntry, ...] = ()
    folders: tuple[FolderEntry, ...] = ()
    runs: tuple[Run, ...] = ()
    checks: tuple[Check, ...] = ()
    declared: str = ""
    path: Path | None = field(default=None, compare=False)

    @property
    def all_files(self) -> tuple[FileEntry, ...]:
        """Return the single files, and those of folders and patterns."""
        return (*self.files, *(file for folder in self.folders for file in folder.files))


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """A buildable spec: its chain of stages, root first, and the values merged along it.

    `from_template` is the key of the spec, and `parent` the build that it means, once that has been
    looked up.
    """

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
    network: Network | None = None
    workdir: str = DEFAULT_WORKDIR
    reseed: str = ""
    accept_broken: tuple[str, ...] = ()
    not_imported: tuple[str, ...] = ()
    from_template: str = ""
    parent: Parent | None = None

    @property
    def ready_key(self) -> str:
        """The key of `[service]` that says when the service is ready."""
        if self.ready_command:
            return "ready-command"
        return "ready-port" if self.ready_port else "ready-url"

    @property
    def parent_name(self) -> str | None:
        """Return the name that `from-template` begins with, None without that key."""
        return template_of(self.from_template) or None

    @property
    def matches(self) -> tuple[str, ...]:
        """Return a line for each folder and pattern of `[[files]]`, with the files in it."""
        return tuple(
            f"`{folder.source}` of {stage.source}: "
            + ", ".join(entry.target.removeprefix(f"{folder.target}/") for entry in folder.files)
            for stage in self.stages
            for folder in stage.folders
        )

    @property
    def runs(self) -> tuple[str, ...]:
        """Return a line for each command and script of `[[run]]`, with the file of its spec."""
        return tuple(
            f"{stage.source}: {run.summary}{'' if run.network else ' (network = false)'}"
            for stage in self.stages
            for run in stage.runs
        )

    @property
    def runs_code(self) -> bool:
        """Whether its service is E2B's code service, by the port at which it is ready."""
        if self.ready_command:
            return any(_CODE_SERVICE.search(word) for word in self.ready_command)
        if self.ready_port:
            return self.ready_port == CODE_SERVICE_PORT
        url = urlsplit(self.ready_url or "")
        at = (url.scheme, url.hostname in LOCAL_HOSTS, url.port)
        return at == ("http", True, CODE_SERVICE_PORT)

    @property
    def checks(self) -> tuple[Check, ...]:
        """Return the checks of the whole chain, root first."""
        return tuple(check for stage in self.stages for check in stage.checks)

    @property
    def requirements(self) -> tuple[str, ...]:
        """Return the requirements of the whole chain, root first."""
        return tuple(text for stage in self.stages for text in stage.requirements)
