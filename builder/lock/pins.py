"""Read the text of a lock: a requirements file of exact versions, markers and hashes."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.requirements import Requirement

# The version of a package with an address is in a comment.
_PIN = re.compile(r"^(?: {4}# )?([A-Za-z0-9._-]+)==([^\s;\\]+)(?: ; (.+?))?(?: \\)?$", re.MULTILINE)
_MARKER = r"(?: ; [^\x00-\x1f\x7f-\x9f\u2028\u2029]+?)?"
_HASHES = r"(?: \\\n {4}--hash=sha256:[0-9a-f]{64})+\n"
_VERSION = r" {4}# [A-Za-z0-9._-]+==[A-Za-z0-9.+!]+\n"
_URL = r"https?://[^\s/@$\\]+/[^\s#$\\]+"
_WHEEL = r"file:///opt/template/wheels/[A-Za-z0-9_-]+/[A-Za-z0-9._+-]+"
_HASHED = re.compile(
    rf"(?:[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+{_MARKER}{_HASHES}"
    rf"|[A-Za-z0-9._-]+ @ (?:{_URL}|{_WHEEL}){_MARKER}{_HASHES}{_VERSION})*"
)
_COMMITS = re.compile(
    rf"(?:[A-Za-z0-9._-]+ @ git\+{_URL}@[0-9a-f]{{40}}(?:#subdirectory=[A-Za-z0-9._/-]+)?{_MARKER}"
    rf"\n{_VERSION})*"
)
_COMMIT = re.compile(r"^\S+ @ git\+", re.MULTILINE)
_HASH = re.compile(r"--hash=(sha256:[0-9a-f]{64})")
# Common platforms. A lock is for all of them, and for others.
_PLATFORMS = (
    ("linux", "posix", "Linux", "x86_64"),
    ("linux", "posix", "Linux", "aarch64"),
    ("darwin", "posix", "Darwin", "arm64"),
    ("darwin", "posix", "Darwin", "x86_64"),
    ("win32", "nt", "Windows", "AMD64"),
)
_NEWEST_MINOR = 20


@functools.lru_cache(maxsize=4096)
def parse_pins(text: str) -> tuple[tuple[str, str], ...]:
    """Return the (name, version) pairs of the text of a lock, in its order."""
    return tuple((match[1], match[2]) for match in _PIN.finditer(text))


def entries(text: str) -> Iterable[tuple[str, list[str]]]:
    """Yield the pins of the text of a lock, each with its marker, and their hashes."""
    for block in re.split(r"\n(?=\S)", text.strip()):
        if block:
            pin = block.splitlines()[0].removesuffix("\\").strip()
            yield pin, _HASH.findall(block)


def is_lock_text(text: str) -> bool:
    """Return whether `text` contains only pins with hashes, then only commits."""
    hashed, commits = parts(text)
    return bool(_HASHED.fullmatch(hashed) and _COMMITS.fullmatch(commits))


def parts(text: str) -> tuple[str, str]:
    """Split the text of a lock: pins with hashes, and the commits after them, which have none."""
    commit = _COMMIT.search(text)
    start = commit.start() if commit else len(text)
    return text[:start], text[start:]


def missing_from(
    names: Iterable[str], requirements: Sequence[str], python_floor: str
) -> Iterator[str]:
    """Yield the requirements that a lock lacks; `names` are the packages that it has.

    A requirement whose marker is false on every Python from `python_floor` on may be missing.
    """
    listed = set(names)
    unlisted = [text for text in requirements if text not in listed]
    if not unlisted:
        return
    from packaging.requirements import Requirement  # slow to load
    from packaging.utils import canonicalize_name

    locked = {canonicalize_name(name) for name in listed}
    for text in unlisted:
        requirement = Requirement(text)
        is_locked = canonicalize_name(requirement.name) in locked
        if not is_locked and _can_hold(requirement, python_floor):
            yield text


def _can_hold(requirement: Requirement, python_floor: str) -> bool:
    marker = requirement.marker
    return marker is None or any(
        marker.evaluate(environment) for environment in environments(python_floor)
    )


@functools.cache
def environments(python_floor: str) -> tuple[dict[str, str], ...]:
    """Return the values of markers on Pythons from `python_floor` on; Linux on x86-64 first."""
    first = int(python_floor.partition(".")[2])
    versions = [f"3.{minor}.{patch}" for minor in range(first, _NEWEST_MINOR) for patch in (0, 99)]
    return tuple(
        {
            "python_version": version.rpartition(".")[0],
            "python_full_version": version,
            "implementation_name": "cpython",
            "implementation_version": version,
            "platform_python_implementation": "CPython",
            "sys_platform": sys_platform,
            "os_name": os_name,
            "platform_system": platform_system,
            "platform_machine": machine,
            "platform_release": "",
            "platform_version": "",
        }
        for version in versions
        for sys_platform, os_name, platform_system, machine in _PLATFORMS
    )
