"""Take over the packages of conda's environment.yml that are Python packages elsewhere, too."""

from __future__ import annotations

import re

from builder.convert.draft import WHEN_OPENED, Draft
from builder.convert.requirements import convert_requirements, note_option, require
from builder.convert.values import Files, Line
from builder.convert.yaml import Value

# conda's name → the name of the same package in a Python package index.
_RENAMED = {
    "dask-core": "dask",
    "matplotlib-base": "matplotlib",
    "msgpack-python": "msgpack",
    "opencv": "opencv-python-headless",
    "py-opencv": "opencv-python-headless",
    "py-xgboost": "xgboost",
    "python-graphviz": "graphviz",
    "python-kaleido": "kaleido",
    "python-levenshtein": "levenshtein",
    "pytables": "tables",
    "pytorch": "torch",
    "seaborn-base": "seaborn",
    "tensorflow-base": "tensorflow",
}
# Programs with a Debian package of the same purpose, some of which have a namesake on an index.
_DEBIAN = {
    "cmake": "cmake",
    "curl": "curl",
    "ffmpeg": "ffmpeg",
    "gdal": "gdal-bin",
    "git": "git",
    "graphviz": "graphviz",
    "imagemagick": "imagemagick",
    "jq": "jq",
    "make": "make",
    "openjdk": "default-jre-headless",
    "pandoc": "pandoc",
    "poppler": "poppler-utils",
    "r-base": "r-base",
    "tesseract": "tesseract-ocr",
    "unzip": "unzip",
    "wget": "wget",
    "zip": "zip",
}
_PART_OF_CONDA = {"pip", "python_abi", "conda"}
_NOT_PYTHON = re.compile(
    r"_.*|lib.*|r-.*|gcc.*|gxx.*|gfortran.*|clang.*|cuda.*|cudnn|cudatoolkit|nccl|mkl|blas|openblas"
    r"|nodejs|rust|go|julia|perl|ruby|openssl|zlib|bzip2|xz|sqlite|tk|readline|ncurses|ca-certificates"
    r"|ld_impl.*|compilers|c-compiler|cxx-compiler|fortran-compiler|make|pkg-config|sysroot.*"
    r"|jpeg|freetype|giflib|lcms2|lerc|lz4-c|zstd|openjpeg|pixman|expat|gettext|glib|harfbuzz|fontconfig"
    r"|numpy-base|pcre2?|c-ares|krb5|nspr|nss|dbus|qt-main|gst-.*|gstreamer|gmp|mpfr|yaml|xorg-.*"
    r"|pytorch-cuda|pytorch-mutex|cpuonly|.*-mutex|vc|vs20\d\d_runtime|tbb|hdf5|netcdf4?-c|proj|geos|icu|intel-openmp"
)
_SPEC = re.compile(r"(?:[\w./-]+::)?([A-Za-z0-9_][\w.-]*)\s*(.*)")
_BRACKETS = re.compile(r"([^\[\]]+)\[([^\[\]]*)\]")
_VERSION_IN_BRACKETS = re.compile(r"version\s*=\s*(['\"]?)([^'\"]*)\1\s*(?:,|$)")
_BUILD = re.compile(r"(={1,2}[^=\s]+)[=\s]([^=\s,<>!]+)$")
# A Python, a hash and a number, as most builds have: `py312h7d8b5a3_0`.
_PLAIN_BUILD = re.compile(r"(?:py\d*)?(?:h[0-9a-f]{7})?_?\d*\*?")
_COMMON_CHANNELS = {"conda-forge", "defaults", "main", "nodefaults", "pytorch", "nvidia"}
_ABSENT = "conda's package is no Python package, and nothing here installs with conda"


def convert_conda(document: Value, draft: Draft, files: Files) -> None:
    """Take over Python packages, those of the section `pip`, and variables."""
    sections = dict(document.items())
    draft.name = sections["name"].text() or None if "name" in sections else None
    for key, value in sections.items():
        if key not in ("name", "prefix", "dependencies", "variables", "channels"):
            draft.note(value.line(key), "unknown key")
    for item in sections["channels"].list() if "channels" in sections else ():
        if item.text() not in _COMMON_CHANNELS:
            draft.note(item.line(), "packages come from a Python package index")
    for item in sections["dependencies"].list() if "dependencies" in sections else ():
        _dependency(item, draft, files)
    for name, variable in sections["variables"].items() if "variables" in sections else ():
        _variable(name, variable, draft)


def _variable(name: str, variable: Value, draft: Draft) -> None:
    line, value = variable.line(f"{name}: …"), variable.text()
    if variable.kind != "text":
        draft.note(line, f"is {variable.kind}: expected text or a number")
    elif draft.secrets.is_secret(name, value):
        draft.note(line, f"`{name}` {WHEN_OPENED}")
    else:
        draft.set(line, "env", name, value.replace("$", "$$"))  # conda expands none


def _dependency(item: Value, draft: Draft, files: Files) -> None:
    for key, section in item.items():
        if key != "pip":
            draft.note(section.line(key), "unknown section")
            continue
        for entry in section.list():
            # As in a requirements file.
            _pip(entry, draft, files)
    if item.text():
        _package(item.line(), item.text(), draft)


def _pip(entry: Value, draft: Draft, files: Files) -> None:
    line, text = entry.line(), entry.text().strip()
    if text.startswith(("-r", "--requirement")):
        path = text.removeprefix("--requirement").removeprefix("-r").lstrip("= ")
        content = files.content(path)
        if content is None:
            draft.note(line, f"there is no file `{path}` here")
        else:
            convert_requirements(content.decode("utf-8", "replace"), path, draft, files)
    elif text.startswith("-"):
        option, _, value = text.replace("=", " ", 1).partition(" ")
        note_option(line, option, value.strip(), draft)
    else:
        require(line, text, draft)


def _package(line: Line, text: str, draft: Draft) -> None:
    if brackets := _BRACKETS.fullmatch(text.strip()):  # such as `name[version='>=1', build=…]`
        version = _VERSION_IN_BRACKETS.search(brackets[2])
        text = f"{brackets[1]} {version[2] if version else ''}"
        if not version or version[0] != brackets[2]:
            draft.note(line, "only the version in the brackets is taken over")
    match = _SPEC.fullmatch(text.strip())
    if not match:
        draft.note(line, "is not `name`, or a name with versions")
        return
    name = match[1].lower()
    versions, build = _versions(match[2])
    if name == "python":
        draft.require_python(line, versions or ">=3")
    elif name in _PART_OF_CONDA:
        return
    elif debian := _DEBIAN.get(name):
        if draft.extend(line, "system", debian) and (versions or build):
            draft.note(line, f"is Debian's `{debian}`, in Debian's version")
    elif name not in _RENAMED and _NOT_PYTHON.fullmatch(name):
        draft.note(line, _ABSENT)
    else:
        package = _RENAMED.get(name, name)
        draft.guess(line, f"{package}{versions}")
        if build:
            hint = ": `[python] torch-backend` chooses PyTorch's" if package == "torch" else ""
            draft.note(line, f"a package index has no build `{build}`{hint}")


def _versions(text: str) -> tuple[str, str]:
    """Return conda's versions as in PEP 440, where `=1.2` is every 1.2, and the build if it is more
    than a Python, a hash and a number."""
    parts = []
    text = text.replace(" =", "=").strip()
    match = _BUILD.search(text)
    build = match[2] if match and not _PLAIN_BUILD.fullmatch(match[2]) else ""
    for part in _BUILD.sub(r"\1", text).split(","):
        version = part.strip().replace(" ", "")
        if version in ("", "*", "=*", "==*"):
            continue
        if version[0].isdigit():
            version = f"={version}"
        if version.startswith("=") and not version.startswith("=="):
            version = f"={version}" if version.endswith("*") else f"={version}.*"
        parts.append(version)
    return ",".join(parts), build
