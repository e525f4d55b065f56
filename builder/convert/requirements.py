"""Take over the lines of a requirements.txt."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from builder.convert.draft import Draft
from builder.convert.values import Files, Line

_COMMENT = re.compile(r"(^|\s)#.*")
_HASH = re.compile(r"\s--hash[= ](\S+)")
# An address without the name of its package before it, as pip takes it.
_BARE = re.compile(r"(?P<url>(?:git\+)?https?://[^\s#]+)(?:#(?P<fragment>\S*))?(?P<marker>\s+;.*)?")
# PyTorch's own indexes, one for each backend.
_TORCH_INDEX = re.compile(r"/whl/(cpu|xpu|cu\d+|rocm[\d.]+)/?$")
INDEX = "the index is a setting of the machine: see the guide about a private index"
_OPTIONS = {
    "-i": INDEX,
    "--index-url": INDEX,
    "--extra-index-url": INDEX,
    "-f": INDEX,
    "--find-links": INDEX,
    "--no-index": INDEX,
    "--trusted-host": INDEX,
    "-c": "the lock decides on versions; put a bound that you need into `packages`",
    "-e": "an editable installation needs its folder; build a wheel from it",
    "--pre": "a pre-release is taken if a bound names one, as in `torch>=3.0rc1`",
    "--no-binary": "where there is a wheel, it is installed",
    "--only-binary": "where there is a wheel, it is installed",
    "--prefer-binary": "where there is a wheel, it is installed",
    "--require-hashes": "the lock always has hashes",
    "--use-feature": "packages are installed with uv, not with pip",
    "--no-build-isolation": "the lock decides how packages are built",
}
_LONG = {"--constraint": "-c", "--editable": "-e", "--requirement": "-r"}
_LOCAL = re.compile(r"(\.{0,2}/|file:|~)|.*\.(whl|tar\.gz|zip)$")


def convert_requirements(text: str, file: str, draft: Draft, files: Files) -> None:
    """Take over the lines of a requirements file, and of the files that it includes."""
    _convert(text, file, draft, files, {file})


def _convert(text: str, file: str, draft: Draft, files: Files, seen: set[str]) -> None:
    for number, line in logical_lines(text):
        content = _HASH.sub("", line).strip()
        place = Line(file=file, number=number, text=content)
        if not content:
            continue
        if not content.startswith("-"):
            if not _wheel(place, posixpath.join(posixpath.dirname(file), content), draft, files):
                require(place, _with_hash(content, _HASH.findall(line)), draft)
            continue
        option, value = _option(content)
        if option == "-r":
            _include(place, posixpath.join(posixpath.dirname(file), value), draft, files, seen)
        else:
            note_option(place, option, value, draft)


def logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield number and content of each line, without comments; a backslash continues it."""
    parts: list[str] = []
    first = 0
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        first = first if parts else number
        content = _COMMENT.sub("", line)
        if content.endswith("\\"):
            parts.append(content[:-1])
            continue
        yield first, "".join([*parts, content])
        parts.clear()
    if parts:
        yield first, "".join(parts)


def _option(content: str) -> tuple[str, str]:
    option, has_value, value = content.partition("=")
    if not has_value or " " in option.strip():
        option, _, value = content.partition(" ")
    if not option.startswith("--"):
        option, value = content[:2], content[2:].strip()
    value = value.strip().strip("'\"")
    return _LONG.get(option, option), value


def _include(line: Line, path: str, draft: Draft, files: Files, seen: set[str]) -> None:
    path = posixpath.normpath(path)
    content = files.content(path)
    if content is None:
        draft.note(line, f"there is no file `{path}` here")
    elif path not in seen:
        seen.add(path)
        _convert(content.decode("utf-8", "replace"), path, draft, files, seen)


def note_option(line: Line, option: str, value: str, draft: Draft) -> None:
    """Note an option of pip; an index of PyTorch becomes the backend."""
    if _OPTIONS.get(option) == INDEX and (match := _TORCH_INDEX.search(value)):
        draft.set(line, "python", "torch-backend", match[1])
        return
    draft.note(line, _OPTIONS.get(option, f"the option `{option}` has no counterpart in a spec"))


def require(line: Line, requirement: str, draft: Draft) -> None:
    """Take over a requirement; a folder or file of this machine is none."""
    if _LOCAL.match(requirement) and "@" not in requirement and "://" not in requirement:
        draft.note(line, "a file or folder has no place in a lock; build a wheel from it")
    else:
        named = _with_name(requirement)
        if _BARE.fullmatch(named):
            form = "git+URL@COMMIT" if named.startswith("git+") else "URL#sha256=…"
            draft.note(line, f"the address has no package name before it: write `name @ {form}`")
        else:
            draft.require(line, named)


def _with_name(requirement: str) -> str:
    """Put the name of its package before an address: from `#egg=`, else from the wheel's name."""
    bare = _BARE.fullmatch(requirement)
    if not bare:
        return requirement
    fragments = [part for part in (bare["fragment"] or "").split("&") if part]
    name = next((part[4:] for part in fragments if part.startswith("egg=")), None)
    if name is None:
        try:
            name = parse_wheel_filename(posixpath.basename(urlsplit(bare["url"]).path))[0]
        except InvalidWheelFilename:
            return requirement
    fragment = "&".join(part for part in fragments if not part.startswith("egg="))
    return f"{name} @ {bare['url']}{f'#{fragment}' if fragment else ''}{bare['marker'] or ''}"


def _with_hash(requirement: str, hashes: Sequence[str]) -> str:
    """Put the only hash of an address into it."""
    if "://" in requirement and "#sha256=" not in requirement and len(hashes) == 1:
        address, marker, rest = requirement.partition(" ;")
        return f"{address.strip()}#{hashes[0].replace(':', '=')}{marker}{rest}"
    return requirement


def _wheel(line: Line, path: str, draft: Draft, files: Files) -> bool:
    """Take over a wheel of the source's folder; return whether it is one."""
    path = posixpath.normpath(path)
    try:
        name = parse_wheel_filename(posixpath.basename(path))[0]
    except InvalidWheelFilename:
        return False
    content = files.content(path)
    return content is not None and draft.require_wheel(line, name, path, content)
