"""Packages that a spec names by address: as uv reads them, and as a lock holds them.

A lock has the hash of each file, or the commit, and the version in a comment, since few addresses
tell it. It has no path of this machine: a wheel of the project is where the template has it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from packaging.utils import canonicalize_name, parse_wheel_filename

from builder.errors import FetchError, LockConflictError
from builder.spec import Stage, place_of
from builder.spec.addresses import address_of, hashed_address
from builder.system.documents import parse_toml


@dataclass(frozen=True, kw_only=True, slots=True)
class Direct:
    """A requirement with an address: the one for uv, and the one in a lock.

    `sha256` is the hash that its file must have; a commit has none. `place` is the line of a spec.
    """

    address: str
    locked: str
    sha256: str | None
    place: str

    def check(self, hashes: Sequence[str]) -> None:
        """Raise `FetchError` if the file has other hashes."""
        if self.sha256 is not None and f"sha256:{self.sha256}" not in hashes:
            raise FetchError(
                f"{self.place}: {self.address} is not the file that the spec names:\n"
                f"  SHA-256 in the spec: {self.sha256}\n"
                f"  SHA-256 of the file: {', '.join(hashes).removeprefix('sha256:')}",
                hint="if you trust the new file, write its hash into the spec; otherwise find the"
                " right one",
            )


def direct_of(stages: Iterable[Stage], folder: Path) -> dict[str, Direct]:
    """Return the requirements with an address, by their text; `folder` is the variants folder."""
    direct: dict[str, Direct] = {}
    for stage in stages:
        wheels = {wheel.source: wheel for wheel in stage.wheels}
        for number, text in enumerate(stage.requirements):
            if not (address := address_of(text)):
                continue
            url, sha256 = hashed_address(address) or (address, None)
            locked = url
            if wheel := wheels.get(address):
                url, locked = (folder / address).absolute().as_uri(), f"file://{wheel.target}"
                sha256 = hashlib.sha256(wheel.content).hexdigest()
            place = place_of(folder, stage.source, ("python", "packages", number))
            direct.setdefault(text, Direct(address=url, locked=locked, sha256=sha256, place=place))
    return direct


def for_uv(text: str, direct: Mapping[str, Direct]) -> str:
    """Return a requirement as uv gets it: without a hash, so that uv finds out the real one."""
    return text.replace(str(address_of(text)), direct[text].address, 1) if text in direct else text


def versions_of(pins: Iterable[str], pylock: str) -> dict[str, str]:
    """Return the version of each pin with an address. `pylock` is uv's description of those that
    are no wheels. Raise `LockConflictError`."""
    packages = parse_toml(pylock).get("packages", [])
    versions: dict[str, str] = {}
    for pin in pins:
        address = str(address_of(pin))
        if is_wheel(address):
            file = unquote(urlsplit(address).path.rpartition("/")[2])
            versions[pin] = str(parse_wheel_filename(file)[1])
            continue
        for package in packages:
            source = package.get("archive") or package.get("vcs") or {}
            key = source.get("commit-id") or source.get("url")
            if key and key in address and package["name"] == name_of(pin):
                versions[pin] = package.get("version", "")
        if not versions.get(pin):
            raise LockConflictError(f"uv found no version of `{pin}`; a lock needs it")
    return versions


def is_wheel(address: str) -> bool:
    """Return whether an address is that of a wheel, whose name has the version."""
    return urlsplit(address).path.endswith(".whl")


def name_of(pin: str) -> str:
    """Return the name of the package at the start of a pin with an address."""
    return canonicalize_name(pin.partition("@")[0].partition("[")[0].strip())
