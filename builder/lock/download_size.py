"""Compute the download size of a lock from the sizes that its index lists.

A pure reader of uv's `pylock.toml` output (https://packaging.python.org/specifications/pylock-toml).
"""

from __future__ import annotations

from typing import cast

from packaging.markers import Environment
from packaging.pylock import Pylock, PylockSelectError, PylockValidationError
from packaging.tags import compatible_tags, cpython_tags

from builder.lock.pins import environments
from builder.system.documents import parse_toml

_MANYLINUX = [
    *(f"manylinux_2_{minor}_x86_64" for minor in range(60, 4, -1)),
    *(f"manylinux{name}_x86_64" for name in ("2014", "2010", "1")),
    "linux_x86_64",
]


def download_size(pylock: str, python: str) -> int | None:
    """Return the bytes to download for CPython `python` ("3.11") on Linux on x86-64; None if the
    index does not list them."""
    version = (3, int(python.partition(".")[2]))
    interpreter = f"cp{version[0]}{version[1]}"
    tags = [
        *cpython_tags(version, abis=[interpreter], platforms=_MANYLINUX),
        *compatible_tags(version, interpreter=interpreter, platforms=_MANYLINUX),
    ]
    total = 0
    try:
        lock = Pylock.from_dict(parse_toml(pylock))
        environment = cast("Environment", environments(python)[0])
        for _, file in lock.select(environment=environment, tags=tags):
            size = getattr(file, "size", None)  # a repository or a folder has none
            if size is None:
                return None
            total += size
    except (PylockValidationError, PylockSelectError):
        return None
    return total
