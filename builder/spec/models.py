"""The format of a spec: one pydantic model for each table, one type for each kind of value.

A value that passes here cannot break out of the place where it is rendered. The models describe a
single file; `builder.spec.assemble` checks what the files of a chain say together.
"""

from __future__ import annotations

import ast
import keyword
import re
import unicodedata
import warnings
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictInt,
    StrictStr,
)

SCHEMA_VERSION = 1
_MINORS = range(8, 30)

# apt-get removes a package whose name ends in `-`.
_APT = re.compile(r"[a-z0-9][a-z0-9+.-]*[a-z0-9+.](:[a-z0-9]+)?(=[A-Za-z0-9.+~:-]+)?")
# A name as in PEP 508.
_DISTRIBUTION = re.compile(r"[A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9._-]*[A-Za-z0-9]")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PATH = re.compile(r"(/[A-Za-z0-9._+@%~=,-]+)+")
# The grammar of distribution/reference: [host[:port]/]path[:tag][@digest]
_IMAGE = re.compile(
    r"(?:(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)(?::[0-9]+)?/)?"
    r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)
_TORCH = re.compile(r"cpu|xpu|cu[0-9]{2,3}|rocm[0-9]+(\.[0-9]+){1,2}")
# Well below the limits for a line of a Dockerfile and for a variable of a Linux process.
_MAX_LINE = 30_000
_MAX_FILE_NAME = 255
_MAX_PATH = 4095


def _one_line(value: str) -> str:
    if len(value) > _MAX_LINE:
        raise ValueError(f"is longer than {_MAX_LINE:,} characters")
    for character in value:
        if unicodedata.category(character) in ("Cc", "Zl", "Zp", "Cs"):
            raise ValueError(f"must be one line of text, but contains {character!r}")
    return value


def _many_lines(value: str) -> str:
    for line in value.replace("\t", " ").split("\n"):
        _one_line(line)
    return value


def _matching(pattern: re.Pattern[str], kind: str) -> Any:
    def check(value: str) -> str:
        if not pattern.fullmatch(value):
            raise ValueError(f"{value!r} is not {kind}")
        return value

    return AfterValidator(check)


def _requirement(value: str) -> str:
    _one_line(value)
    try:
        requirement = Requirement(value)
    except InvalidRequirement as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{value!r} is not a PEP 508 requirement: {reason}") from error
    if requirement.url:
        raise ValueError(
            f"{value!r} names a URL; write a name and versions, which can be locked with hashes"
        )
    return value


def _python(value: str) -> str:
    _one_line(value)
    if not value.strip():
        raise ValueError("is empty; write for example '>=3.11'")
    try:
        python_floor(value)
    except InvalidSpecifier as error:
        raise ValueError(f"{value!r} is not a version specifier such as '>=3.11'") from error
    return value


def python_floor(specifier: str) -> str:
    """Return the lowest Python ("3.11") that `specifier` allows, else raise `ValueError`."""
    allowed = SpecifierSet(specifier)
    # The first and last patch decide for most, as for ">3.11" or ">=3.11.4"; "==3.11.4" needs those
    # between. Trying them all would cost more than everything else in a spec.
    for patches in ((0, 99), range(1, 99)):
        for minor in _MINORS:
            if any(allowed.contains(f"3.{minor}.{patch}") for patch in patches):
                return f"3.{minor}"
    raise ValueError(f"no Python 3 version satisfies {specifier!r}")


def _path(value: str) -> str:
    if not _PATH.fullmatch(value) or {".", ".."} & set(value.split("/")):
        raise ValueError(
            f"{value!r} is not an absolute POSIX path of letters, digits and ._+@%~=,-"
            " without `.` or `..` in it"
        )
    return _path_length(value)


def _path_length(value: str) -> str:
    if any(len(part.encode()) > _MAX_FILE_NAME for part in value.split("/")):
        raise ValueError(f"contains a name longer than {_MAX_FILE_NAME} bytes")
    if len(value.encode()) > _MAX_PATH:
        raise ValueError(f"is longer than {_MAX_PATH} bytes")
    return value


def _url(value: str) -> str:
    _one_line(value)
    try:
        parts = urlsplit(value)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if not valid or not value.isascii() or re.search(r"[\s\"'\\$`]", value):
        raise ValueError(f"{value!r} is not an http or https URL")
    if parts.username or parts.password:
        raise ValueError(
            "the URL contains a user name or password, which must not be in a template"
        )
    return value


def _module(value: str) -> str:
    for part in value.split("."):
        if not part.isidentifier() or not part.isascii() or keyword.iskeyword(part):
            raise ValueError(f"{value!r} is not the name of a Python module")
    return value


def _python_code(value: str) -> str:
    with warnings.catch_warnings(action="ignore"):
        try:
            ast.parse(value)
        except (SyntaxError, ValueError, RuntimeError, MemoryError) as error:
            line = getattr(error, "lineno", None)
            where = f" (its line {line})" if line else ""
            raise ValueError(
                f"is not Python code: {getattr(error, 'msg', 'too deeply nested')}{where}"
            ) from error
    return value


def _command(value: list[str]) -> list[str]:
    if not value or not value[0]:
        raise ValueError("must name a program")
    return value


def _source(value: str) -> str:
    _one_line(value)
    parts = value.split("/")
    if value.startswith("/") or "\\" in value or {"", ".", ".."} & set(parts):
        raise ValueError(f"{value!r} is not a path inside the variants folder")
    return _path_length(value)


def _whole(value: object) -> object:
    if type(value) is not int:
        raise ValueError(f"expected the number {SCHEMA_VERSION}, found {value!r}")
    return value


def _cpu(value: int) -> int:
    if value != 1 and value % 2:
        raise ValueError(f"{value} is neither 1 nor even")
    return value


def _even(value: int) -> int:
    if value % 2:
        raise ValueError(f"{value} is not even")
    return value


Text = Annotated[StrictStr, AfterValidator(_one_line)]
Code = Annotated[StrictStr, AfterValidator(_many_lines)]
EnvName = Annotated[StrictStr, _matching(_ENV_NAME, "the name of an environment variable")]
AptPackage = Annotated[StrictStr, _matching(_APT, "the name of a Debian package")]
Image = Annotated[StrictStr, _matching(_IMAGE, "an image reference such as 'python:3.13'")]
PythonPackage = Annotated[StrictStr, AfterValidator(_requirement)]
Distribution = Annotated[StrictStr, _matching(_DISTRIBUTION, "the name of a Python package")]
Module = Annotated[StrictStr, AfterValidator(_module)]


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

    image: Image | None = Field(None, description="image reference; its digest is locked")
    python: Annotated[StrictStr, AfterValidator(_python)] | None = Field(
        None, description="Python version that the image must have, e.g. '>=3.11'"
    )


class ServiceTable(_Table):
    """The service that runs in every sandbox."""

    command: Annotated[list[Text], AfterValidator(_command)] | None = Field(
        None, description="program and arguments"
    )
    ready_url: Annotated[StrictStr, AfterValidator(_url)] | None = Field(
        None, description="URL that answers 200 once the service is ready"
    )


class ResourcesTable(_Table):
    """The resources of a sandbox."""

    cpu: Annotated[StrictInt, Field(ge=1, le=32), AfterValidator(_cpu)] = Field(
        2, description="virtual CPUs: 1 or an even number up to 32"
    )
    memory_mb: Annotated[StrictInt, Field(ge=128), AfterValidator(_even)] = Field(
        1024, description="memory in MiB: even, at least 128"
    )
    free_disk_mb: Annotated[StrictInt, Field(ge=0)] | None = Field(
        None,
        description="free disk space in MiB that E2B adds after the steps; E2B's default if unset",
    )


class PythonTable(_Table):
    """Python packages that this stage adds."""

    packages: list[PythonPackage] = Field([], description="PEP 508 requirements; no pins needed")
    torch_backend: Annotated[StrictStr, _matching(_TORCH, "a PyTorch backend")] | None = Field(
        None, description="PyTorch builds to install: cpu, cu130, rocm6.4, …"
    )
    accept_broken: list[Distribution] = Field(
        [], description="packages of the base image that may stop working when others are upgraded"
    )


class SystemTable(_Table):
    """Debian packages that this stage adds."""

    packages: list[AptPackage] = Field([], description="names of packages for apt-get")


class FileTable(_Table):
    """One file that this stage adds."""

    source: Annotated[StrictStr, AfterValidator(_source)] = Field(
        description="path inside the variants folder"
    )
    target: Annotated[StrictStr, AfterValidator(_path)] = Field(
        description="absolute path in the sandbox; below /home/user, `user` owns the file"
    )
    mode: Annotated[StrictStr, Field(pattern=r"^0[0-7]{3}$")] = Field(
        "0644", description="permissions, octal"
    )


class WarmupTable(_Table):
    """What is loaded before a sandbox is first used."""

    level: Literal["none", "disk", "memory"] = Field(
        "none",
        description="none; disk: byte code and caches are in a layer; memory: modules are imported",
    )
    imports: list[Module] = Field([], description="modules to import, in this order")
    reseed: Annotated[Code, AfterValidator(_python_code)] = Field(
        "",
        description="level memory: Python code that runs first in each sandbox, to reseed random"
        " number generators that are not found automatically",
    )


class VerifyTable(_Table):
    """Code that must succeed in a sandbox of the build before the build is recorded."""

    name: Annotated[Text, Field(min_length=1)] = Field(description="what is checked")
    code: Code = Field(description="Python code; an exception fails the check")
    stdout: Code | None = Field(
        None, description="expected output; trailing white space is ignored"
    )
    timeout: Annotated[StrictInt, Field(ge=1, le=3600)] = Field(60, description="seconds")


class VariantFile(_Table):
    """A spec: one TOML file in `variants/`. A leading `_` in its file name makes it abstract."""

    schema_version: Annotated[Literal[1], BeforeValidator(_whole)] = Field(
        alias="schema", description="version of this format"
    )
    name: (
        Annotated[
            StrictStr,
            Field(max_length=128),
            _matching(re.compile(r"[a-z0-9-_]+"), "a template name: a-z, 0-9, - and _"),
        ]
        | None
    ) = Field(None, description="name of the template; an abstract spec has none")
    description: Text = Field("", description="one-line description")
    extends: Text | None = Field(
        None, description="file name, without .toml, of the spec that this one extends"
    )
    base: BaseTable | None = None
    env: dict[EnvName, Text] = Field(
        {}, description="environment variables of every process in a sandbox"
    )
    service: ServiceTable | None = None
    resources: ResourcesTable | None = None
    python: PythonTable | None = None
    system: SystemTable | None = None
    files: list[FileTable] = []
    warmup: WarmupTable | None = None
    verify: list[VerifyTable] = []


TABLES: dict[str, type[BaseModel]] = {
    "base": BaseTable,
    "service": ServiceTable,
    "resources": ResourcesTable,
    "python": PythonTable,
    "system": SystemTable,
    "warmup": WarmupTable,
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
