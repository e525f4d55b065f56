"""The format of a spec: one pydantic model for each table.

The models describe a single file; `builder.spec.assemble` checks what the files of a chain say
together.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt

from builder.spec import defaults
from builder.spec.network import NetworkValue
from builder.spec.types import (
    Account,
    AptPackage,
    AptWord,
    Code,
    Command,
    ContentUrl,
    Cpus,
    Distribution,
    EnvName,
    HubRepo,
    Image,
    Memory,
    Mode,
    Module,
    NpmPackage,
    Port,
    ProjectPath,
    PythonCode,
    PythonPackage,
    PythonVersions,
    RepositoryKey,
    Revision,
    SandboxPath,
    Sha256,
    SourcePath,
    SourcePattern,
    TargetPath,
    TemplateName,
    TemplateReference,
    Text,
    TorchBackend,
    Url,
)
from builder.spec.variant import DEFAULT_WORKDIR

SCHEMA_VERSION = 1


def _whole(value: object) -> object:
    if type(value) is not int:
        raise ValueError(f"expected the number {SCHEMA_VERSION}, found {value!r}")
    return value


class _Table(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        # The validator of the whole file includes those of its tables.
        defer_build=True,
        alias_generator=lambda name: name.replace("_", "-"),
    )


class BaseTable(_Table):
    """The image that the first stage starts from."""

    image: Image = Field(defaults.IMAGE, description="image reference; its digest is locked")
    python: PythonVersions = Field(
        defaults.PYTHON, description="Python versions, of which the image must have one"
    )


class ServiceTable(_Table):
    """The service that runs in every sandbox, and one key that says when it is ready.

    With another `base.image`, there is none by default.
    """

    command: Command = Field(list(defaults.COMMAND), description="program and arguments")
    ready_url: Url = Field(
        defaults.READY_URL, description="URL that answers 200 once the service is ready"
    )
    ready_command: Command | None = Field(
        None,
        description="program and arguments that exit with 0, within 8 seconds, once the service is"
        " ready",
    )
    ready_port: Port | None = Field(
        None, description="TCP port that accepts connections once the service is ready"
    )


class ResourcesTable(_Table):
    """The resources of a sandbox."""

    cpu: Cpus = Field(defaults.CPU, description="virtual CPUs: 1 or an even number up to 32")
    memory_mb: Memory = Field(defaults.MEMORY_MB, description="memory in MiB: even, at least 128")
    free_disk_mb: Annotated[StrictInt, Field(ge=0)] | None = Field(
        None,
        description="free disk space in MiB that E2B adds after the steps; E2B's default if unset",
    )


class PythonTable(_Table):
    """Python packages that this stage adds."""

    packages: list[PythonPackage] = Field(
        [],
        description="PEP 508 requirements; no pins needed. After `name @`: `https://…#sha256=…`, a"
        " wheel inside the variants folder, or `git+https://…@` and a full commit",
    )
    torch_backend: TorchBackend | None = Field(
        None, description="PyTorch builds to install: cpu, cu130, rocm6.4, …"
    )
    accept_broken: list[Distribution] = Field(
        [], description="packages of the base image that may stop working when others are upgraded"
    )
    not_imported: list[Distribution] = Field(
        [],
        description="packages of this spec that no check imports, since they need a display, say",
    )


class RepositoryTable(_Table):
    """A repository of Debian packages."""

    uri: Url = Field(description="address of the repository")
    suites: Annotated[list[AptWord], Field(min_length=1)] = Field(description="such as `stable`")
    components: list[AptWord] = Field([], description="such as `main`")
    key: RepositoryKey = Field(
        description="key that signs it: a file of the variants folder, or an address with its hash,"
        " `https://…#sha256=…`"
    )


class SystemTable(_Table):
    """Debian packages that this stage adds."""

    packages: list[AptPackage] = Field(
        [],
        description="packages as apt-get takes them: `name`, `name=version` with wildcards,"
        " `name/release`, each with `:architecture` if needed",
    )
    repository: list[RepositoryTable] = []


class NodeTable(_Table):
    """npm packages that this stage adds, if the image has Node.js."""

    packages: list[NpmPackage] = Field(
        [],
        description="packages with the versions to choose from, such as `typescript@5`; npm locks"
        " them, and their programs are on the PATH",
    )


class RunTable(_Table):
    """A command that this stage runs, in a shell that stops at the first error."""

    command: Code | None = Field(None, description="command, of one or more lines")
    script: SourcePath | None = Field(
        None, description="a script inside the variants folder, instead of `command`"
    )
    user: Literal["root", "user"] = Field("root", description="who runs it")
    before: Literal["packages"] | None = Field(
        None, description="`packages`: before the Python packages are installed; default: last"
    )
    inputs: list[SourcePattern] = Field(
        [],
        description="files, folders (`app/`) and patterns (`*.csv`) of the variants folder that it"
        " reads; they are copied to the folder in which it runs",
    )
    env: dict[EnvName, Text] = Field(
        {},
        description="environment variables for it alone; `$` means what it does in `[env]`",
    )
    network: bool = Field(default=True, description="false: without a network, which E2B cannot do")


class DownloadTable(_Table):
    """A file from a web address, checked by its hash. It comes before the Python packages."""

    url: Url = Field(description="http or https URL, without user name and password")
    sha256: Sha256 | None = Field(
        None, description="SHA-256 that the file must have; else the lock has that of the first use"
    )
    target: SandboxPath = Field(
        description="absolute path in the sandbox of the file, or of the folder to extract into"
    )
    owner: Literal["root", "user"] | None = Field(
        None, description="who owns it; by default `user` at and below /home/user, else `root`"
    )
    mode: Mode | None = Field(
        None,
        description="permissions, octal; by default 0644, and those in the archive for what is"
        " extracted. Folders can be entered by those who can read them",
    )
    extract: StrictBool = Field(
        default=False,
        description="whether to extract the file, a tar or zip archive, into `target`",
    )


class ModelTable(_Table):
    """A model: files of `repo`, `url` or `path`. It comes before the Python packages."""

    repo: HubRepo | None = Field(
        None, description="repository of a Hugging Face hub, such as 'organization/name'"
    )
    revision: Revision = Field(
        "main", description="branch, tag or commit of `repo`; the lock has the commit"
    )
    url: ContentUrl | None = Field(
        None,
        description="URL of a file, or an address in an object store: s3://bucket/name, gs://… or"
        " az://…; with / at the end, all below it",
    )
    path: ProjectPath | None = Field(None, description="file or folder, relative to the project")
    files: list[Annotated[Text, Field(min_length=1)]] = Field(
        [],
        description="patterns of the files to take, such as '*.safetensors' (* also matches /);"
        " all files if there is none",
    )
    target: SandboxPath | None = Field(
        None,
        description="absolute path in the sandbox; by default /home/user/models/ and the name of"
        " the source",
    )


class DatasetTable(ModelTable):
    """A dataset, with the keys of `[[model]]`; its default target is below /home/user/datasets/."""

    target: SandboxPath | None = Field(
        None,
        description="absolute path in the sandbox; by default /home/user/datasets/ and the name of"
        " the source",
    )


class FileTable(_Table):
    """A file, a folder, or the files that match a pattern, which this stage adds."""

    source: SourcePattern = Field(
        description="path inside the variants folder: a file, a folder (`app/`) or a pattern"
        " (`data/*.csv`)"
    )
    target: TargetPath = Field(
        description="absolute path in the sandbox; for a pattern, the folder (`/opt/data/`)"
    )
    owner: Account | None = Field(
        None, description="account; by default `user` at and below /home/user, else root"
    )
    mode: Mode | None = Field(
        None,
        description="permissions, octal; by default 0644, and 0755 for executable files of a folder"
        " or pattern",
    )
    folder_mode: Mode | None = Field(
        None, description="permissions of the folders, octal; by default 0755"
    )


class WorkdirTable(_Table):
    """The folder in which a sandbox starts."""

    path: SandboxPath = Field(DEFAULT_WORKDIR, description="absolute path; made for `user`")


class WarmupTable(_Table):
    """What is loaded before a sandbox is first used."""

    level: Literal["none", "disk", "memory"] = Field(
        "none",
        description="none; disk: byte code and caches are in a layer; memory: modules are imported",
    )
    imports: list[Module] = Field([], description="modules to import, in this order")
    reseed: PythonCode = Field(
        "",
        description="level memory: Python code that runs first in each sandbox, to reseed random"
        " number generators that are not found automatically",
    )


class HttpTable(_Table):
    """A GET request of a service in the sandbox; redirects are not followed."""

    url: Url = Field(description="URL on localhost")
    status: Annotated[StrictInt, Field(ge=100, le=599)] = Field(200, description="expected status")
    contains: Annotated[Text, Field(min_length=1)] | None = Field(
        None, description="text that the answer must contain"
    )


class VerifyTable(_Table):
    """What must succeed in a sandbox of the build before the build is recorded: `code`, a
    `command`, or an `http` request."""

    name: Annotated[Text, Field(min_length=1)] = Field(description="what is checked")
    code: Code | None = Field(None, description="Python code; an exception fails the check")
    command: Annotated[Code, Field(min_length=1)] | None = Field(
        None,
        description="command for the shell, run as the sandbox's user in its working folder",
    )
    exit_code: Annotated[StrictInt, Field(ge=0, le=255)] = Field(
        0, description="expected exit code of the command"
    )
    http: HttpTable | None = Field(
        None,
        description="request of a service: `url` on localhost, expected `status` (200 if unset),"
        " and text that the answer `contains`",
    )
    stdout: Code | None = Field(
        None,
        description="expected output of the code or command; trailing white space is ignored",
    )
    timeout: Annotated[StrictInt, Field(ge=1, le=3600)] = Field(60, description="seconds")


class VariantFile(_Table):
    """A spec: one TOML file in `variants/`. A leading `_` in its file name makes it abstract."""

    schema_version: Annotated[Literal[1], BeforeValidator(_whole)] = Field(
        alias="schema", description="version of this format"
    )
    name: TemplateName | None = Field(
        None, description="name of the template; an abstract spec has none"
    )
    description: Text = Field("", description="one-line description")
    extends: Text | None = Field(
        None, description="file name, without .toml, of the spec that this one extends"
    )
    from_template: TemplateReference | None = Field(
        None,
        description="template to build on, in place of a base image: its name (the channel"
        " `stable`), `NAME@CHANNEL`, `NAME@BUILD` or a ref; on E2B, the ID of any template",
    )
    network: NetworkValue | None = Field(
        None,
        description="hosts that code in a sandbox may reach: `none`, `allow` for all, or a list of"
        " names, in which `*.example.org` is every host below `example.org`; by default the"
        " target's",
    )
    base: BaseTable | None = None
    env: dict[EnvName, Text] = Field(
        {},
        description="environment variables of every process in a sandbox; `$NAME` and `${NAME}`"
        " are the values so far, also of the base image, `$$` is a dollar sign",
    )
    service: ServiceTable | None = None
    resources: ResourcesTable | None = None
    python: PythonTable | None = None
    system: SystemTable | None = None
    node: NodeTable | None = None
    run: list[RunTable] = []
    download: list[DownloadTable] = []
    model: list[ModelTable] = []
    dataset: list[DatasetTable] = []
    files: list[FileTable] = []
    workdir: WorkdirTable | None = None
    warmup: WarmupTable | None = None
    verify: list[VerifyTable] = []


TABLES: dict[str, type[BaseModel]] = {
    "base": BaseTable,
    "service": ServiceTable,
    "resources": ResourcesTable,
    "python": PythonTable,
    "system": SystemTable,
    "node": NodeTable,
    "warmup": WarmupTable,
    "workdir": WorkdirTable,
}


def schemas() -> dict[str, dict[str, Any]]:
    """Return schema name → JSON schema of the file formats, for editors and other programs."""
    from builder.registry import model

    return {"registry": model.schema(), "variant": _schema()}


def _schema() -> dict[str, Any]:
    schema = VariantFile.model_json_schema(by_alias=True)
    for table in (schema, *schema["$defs"].values()):
        for key, field in table["properties"].items():
            # Optional values are None here; TOML has no such value.
            types = [kind for kind in field.pop("anyOf", []) if kind != {"type": "null"}]
            if types and field.get("default", 0) is None:
                del field["default"]
            table["properties"][key] = field | (types[0] if types else {})
    return {"$schema": "http://json-schema.org/draft-07/schema#"} | schema
