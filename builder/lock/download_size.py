"""What the packages of a lock weigh when they are downloaded, by what their index says.

A pure reader of uv's `pylock.toml` output (https://packaging.python.org/specifications/pylock-toml).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from packaging.markers import Marker
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import parse_wheel_filename

from builder.lock.pins import environments
from builder.system.documents import parse_toml

__all__ = ["download_size"]

_MANYLINUX = [
    *(f"manylinux_2_{minor}_x86_64" for minor in range(60, 4, -1)),
    *(f"manylinux{name}_x86_64" for name in ("2014", "2010", "1")),
    "linux_x86_64",
]


def download_size(pylock: str, python: str) -> int | None:
    """The bytes to download for CPython `python` ("3.11") on Linux on x86-64; None where the index
    does not say."""
    environment = environments(python)[0]
    version = (3, int(python.partition(".")[2]))
    interpreter = f"cp{version[0]}{version[1]}"
    tags = [
        *cpython_tags(version, abis=[interpreter], platforms=_MANYLINUX),
        *compatible_tags(version, interpreter=interpreter, platforms=_MANYLINUX),
    ]
    ranks = {tag: rank for rank, tag in enumerate(tags)}
    total = 0
    for package in parse_toml(pylock).get("packages", []):
        if "marker" in package and not Marker(package["marker"]).evaluate(environment):
            continue
        size = _file_of(package, ranks).get("size")
        if not isinstance(size, int):
            return None
        total += size
    return total


def _file_of(package: Mapping[str, Any], ranks: Mapping[Tag, int]) -> Mapping[str, Any]:
    """The wheel that is installed there, or else the source distribution."""
    fitting = []
    for wheel in package.get("wheels", []):
        name = wheel.get("name") or unquote(wheel.get("url", "").rpartition("/")[2])
        found = [ranks[tag] for tag in parse_wheel_filename(name)[3] if tag in ranks]
        if found:
            fitting.append((min(found), name, wheel))
    if fitting:
        return dict(min(fitting, key=lambda entry: entry[:2])[2])
    return dict(package.get("sdist", {}))
