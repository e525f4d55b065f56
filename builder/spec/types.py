"""One type for each kind of value in a spec.

A value that passes here cannot break out of the place where it is rendered.
"""

from __future__ import annotations

import keyword
import re
import string
from typing import Annotated, Any
from urllib.parse import quote, unquote, urlsplit

from pydantic import AfterValidator, Field, StrictInt, StrictStr

from builder.spec.addresses import HASHED
from builder.spec.python import python_code, python_floor

# apt-get removes a package whose name ends in `-`.
_APT = re.compile(
    r"[a-z0-9][a-z0-9+.-]*[a-z0-9+.](:[a-z0-9]+)?(=[A-Za-z0-9.+~:*-]+|/[A-Za-z0-9][A-Za-z0-9.+-]*)?"
)
_APT_WORD = re.compile(r"[A-Za-z0-9./][A-Za-z0-9./+_~-]*")
# https://docs.npmjs.com/cli/configuring-npm/package-json: a name, and versions of a registry.
_NPM = re.compile(
    r"(?:@[a-z0-9~][a-z0-9._~-]*/)?[a-z0-9~][a-z0-9._~-]*"
    r"(?:@[0-9A-Za-z^~<>=*.][0-9A-Za-z^~<>=*.+| -]*)?"
)
_ACCOUNT = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_COMMIT = re.compile(
    r"git\+(?P<url>https://[^#/]+/[^#]+)@[0-9a-f]{40}"
    r"(?:#subdirectory=[A-Za-z0-9_][A-Za-z0-9._-]*(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)*)?"
)
_WHEEL_NAME = re.compile(r"[A-Za-z0-9._+-]+\.whl")
_ARCHIVES = (".whl", ".tar.gz", ".zip")
# A name as in PEP 508.
_DISTRIBUTION = re.compile(r"[A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9._-]*[A-Za-z0-9]")
_QUOTED = re.compile(r"\"[^\"]*\"")
# Variables of markers that have a value in a package, but none in a spec.
_PACKAGE_VARIABLE = re.compile(r"\b(?:extras?|dependency_groups)\b")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PATH = re.compile(r"(/[A-Za-z0-9._+@%~=,-]+)+")
# The grammar of distribution/reference: [host[:port]/]path[:tag][@digest]
_IMAGE = re.compile(
    r"(?:(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)(?::[0-9]+)?/)?"
    r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)
_OBJECT = re.compile(r"[a-z0-9]+://[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9._+@%~=,/-]+")
_TORCH = re.compile(r"cpu|xpu|cu[0-9]{2,3}|rocm[0-9]+(\.[0-9]+){1,2}")
# Well below the limits for a line of a Dockerfile and for a variable of a Linux process.
_MAX_LINE = 30_000
_MAX_FILE_NAME = 255
_MAX_PATH = 4095


def _one_line(value: str) -> str:
    if (character := _control_in(value)) is not None:
        raise ValueError(
            f"must be one line of text without control characters, but contains {character!r}"
        )
    return value


def _many_lines(value: str) -> str:
    for line in value.replace("\t", " ").split("\n"):
        if (character := _control_in(line)) is not None:
            raise ValueError(
                f"contains {character!r}: of control characters, only tabs and line feeds are"
                " allowed"
            )
    return value


def _control_in(line: str) -> str | None:
    """Return the first character that no line may have, if there is one. Check the length, too."""
    if len(line) > _MAX_LINE:
        raise ValueError(f"is longer than {_MAX_LINE:,} characters")
    if line.isprintable():
        return None
    import unicodedata

    controls = ("Cc", "Zl", "Zp", "Cs")
    return next((char for char in line if unicodedata.category(char) in controls), None)


def _matching(pattern: re.Pattern[str], kind: str) -> Any:
    def check(value: str) -> str:
        if not pattern.fullmatch(value):
            raise ValueError(f"{value!r} is not {kind}")
        return value

    return AfterValidator(check)


def _requirement(value: str) -> str:
    _one_line(value)
    if _DISTRIBUTION.fullmatch(value):
        return value
    from packaging.requirements import InvalidRequirement, Requirement  # slow to load

    from builder.spec.requirement_forms import what_to_write

    try:
        requirement = Requirement(value)
    except InvalidRequirement as error:
        reason = what_to_write(value) or str(error).splitlines()[0]
        raise ValueError(f"{value!r} is not a PEP 508 requirement: {reason}") from error
    if variable := _PACKAGE_VARIABLE.search(_QUOTED.sub("", str(requirement.marker))):
        raise ValueError(
            f"{value!r} has a marker with `{variable[0]}`, which has no meaning in a spec: remove"
            " the marker or the package"
        )
    if requirement.url:
        _address(value, requirement.name, requirement.url)
    return value


def _address(value: str, name: str, address: str) -> None:
    """Check the address of a package: a hash or a full commit decides on its content."""
    if address.startswith("git+"):
        if not (commit := _COMMIT.fullmatch(address)):
            raise ValueError(
                f"{value!r} names no commit: write `git+https://…@` and the 40 digits of a commit,"
                " since a branch or a tag may change"
            )
        _url(commit["url"])
        return
    path = address
    if address.startswith(("http://", "https://")):
        url, _, fragment = address.partition("#")
        _url(address if fragment.isascii() else url)
        if not HASHED.fullmatch(address):
            raise ValueError(f"{value!r} {_no_hash(fragment)}: append `#sha256=` and 64 digits")
        path = urlsplit(url).path
    else:
        _source(address)
        if not address.endswith(".whl"):
            raise ValueError(f"{address!r} is not a wheel: its name must end in `.whl`")
    if not path.endswith(_ARCHIVES):
        raise ValueError(f"{value!r} names neither a wheel nor a `.tar.gz` or `.zip` of sources")
    if path.endswith(".whl"):
        _wheel_name(unquote(path.rpartition("/")[2]), name)


def _no_hash(fragment: str) -> str:
    return "has an incomplete hash" if fragment.startswith("sha256=") else "has no hash"


def _wheel_name(file: str, name: str) -> None:
    from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

    try:
        if not _WHEEL_NAME.fullmatch(file):
            raise InvalidWheelFilename
        named = parse_wheel_filename(file)[0]
    except InvalidWheelFilename as error:
        raise ValueError(
            f"{file!r} is not the name of a wheel, such as `name-1.0-py3-none-any.whl`"
        ) from error
    if named != canonicalize_name(name):
        raise ValueError(f"{file!r} is a wheel of {named!r}, not of {name!r}")


def _python(value: str) -> str:
    _one_line(value)
    if not value.strip():
        raise ValueError("is empty; write for example '>=3.11'")
    python_floor(value)
    return value


def _path(value: str) -> str:
    if value == "/":
        raise ValueError("'/' is the root folder, which every sandbox has: write a path below it")
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
    if not valid or not parts.netloc.isascii() or re.search(r"[\s\"'\\$`]", value):
        raise ValueError(f"{value!r} is not an http or https URL")
    if "@" in parts.netloc:
        raise ValueError(
            "the URL contains a user name or password, which must not be in a template"
        )
    if not value.isascii():
        encoded = quote(value, safe=string.printable)
        raise ValueError(f"{value!r} is not percent-encoded: write {encoded!r}")
    return value


def _content_url(value: str) -> str:
    if value.partition("://")[0] not in ("s3", "gs", "az"):
        return _url(value)
    if not _OBJECT.fullmatch(value) or {"", ".", ".."} & set(value.split("/")[3:-1]):
        raise ValueError(f"{value!r} is not the address of an object such as 's3://bucket/name'")
    return value


def _module(value: str) -> str:
    for part in value.split("."):
        if not part.isidentifier() or not part.isascii() or keyword.iskeyword(part):
            raise ValueError(f"{value!r} is not the name of a Python module")
    return value


def _command(value: list[str]) -> list[str]:
    if not value or not value[0]:
        raise ValueError("must name a program")
    return value


def _inside(folder: str, path: str, value: str) -> str:
    _one_line(value)
    if "\\" in value or {"", ".", ".."} & set(path.split("/")):
        raise ValueError(f"{value!r} is not a path inside the {folder}")
    return _path_length(path)


def _source(value: str) -> str:
    return _inside("variants folder", value, value)


def _source_pattern(value: str) -> str:
    _inside("variants folder", value.removesuffix("/"), value)
    return value


def _project_path(value: str) -> str:
    return _inside("project", value.removesuffix("/"), value)


def _target_path(value: str) -> str:
    if value == "/":
        raise ValueError("'/' is the root folder: write a path below it")
    _path(value.removesuffix("/"))
    return value


def _repository_key(value: str) -> str:
    if "://" not in value:
        return _source(value)
    if not (address := HASHED.fullmatch(value)):
        raise ValueError(f"{value!r} has no hash: write `https://…#sha256=` and 64 digits")
    _url(address["url"])
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
PythonVersions = Annotated[StrictStr, AfterValidator(_python)]
TorchBackend = Annotated[StrictStr, _matching(_TORCH, "a PyTorch backend")]
PythonCode = Annotated[Code, AfterValidator(python_code)]
Command = Annotated[list[Text], AfterValidator(_command)]
Url = Annotated[StrictStr, AfterValidator(_url)]
Sha256 = Annotated[
    StrictStr, _matching(re.compile(r"[0-9a-f]{64}"), "a SHA-256 hash: 64 digits of 0-9 and a-f")
]
HubRepo = Annotated[
    StrictStr,
    _matching(
        re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]{0,95}/)?[A-Za-z0-9][A-Za-z0-9._-]{0,95}"),
        "a repository such as 'organization/name'",
    ),
]
Revision = Annotated[
    StrictStr,
    _matching(re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/-]{0,199}"), "a branch, a tag or a commit"),
]
# A file at a web address, or a file or, with `/` at the end, a folder of an object store.
ContentUrl = Annotated[StrictStr, AfterValidator(_content_url)]
# A path inside the variants folder, and an absolute one in the sandbox.
SourcePath = Annotated[StrictStr, AfterValidator(_source)]
SourcePattern = Annotated[StrictStr, AfterValidator(_source_pattern)]
# A file or folder, relative to the project.
ProjectPath = Annotated[StrictStr, AfterValidator(_project_path)]
TargetPath = Annotated[StrictStr, AfterValidator(_target_path)]
RepositoryKey = Annotated[StrictStr, AfterValidator(_repository_key)]
AptWord = Annotated[StrictStr, _matching(_APT_WORD, "a word of a Debian source, such as 'main'")]
NpmPackage = Annotated[StrictStr, _matching(_NPM, "an npm package such as 'typescript@5'")]
Account = Annotated[StrictStr, _matching(_ACCOUNT, "the name of an account")]
SandboxPath = Annotated[StrictStr, AfterValidator(_path)]
Mode = Annotated[StrictStr, Field(pattern=r"^0[0-7]{3}$")]
Port = Annotated[StrictInt, Field(ge=1, le=65535)]
TemplateReference = Annotated[
    StrictStr,
    Field(max_length=256),
    _matching(
        re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.:-]*(@[A-Za-z0-9_.:-]+)?"),
        "a template: expected its name, NAME@CHANNEL, or a ref",
    ),
]
Cpus = Annotated[StrictInt, Field(ge=1, le=32), AfterValidator(_cpu)]
Memory = Annotated[StrictInt, Field(ge=128), AfterValidator(_even)]
TemplateName = Annotated[
    StrictStr,
    Field(max_length=128),
    _matching(re.compile(r"[a-z0-9-_]+"), "a template name: a-z, 0-9, - and _"),
]
