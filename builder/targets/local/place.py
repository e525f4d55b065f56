"""Where environments are, by digest, and what a process in one of them is given."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from builder.errors import NotOnThisMachineError
from builder.files import cache_folder

__all__ = [
    "MANIFEST",
    "USED",
    "Environment",
    "find",
    "find_build",
    "place_of",
    "sandbox_variables",
    "used",
]

MANIFEST = "environment.json"
USED = "used"
# What a process needs of the outside, and none of what may be a secret.
_PASSED_ON = ("LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR")
# The homes of an E2B sandbox; paths below them become paths below the local sandbox's home.
_SANDBOX_HOMES = ("/root", "/home/user")


@dataclass(frozen=True, kw_only=True, slots=True)
class Environment:
    """An environment that is in place. `seconds` is what making it took, `size` is in bytes,
    `cold` is seconds by warm-up import before there was byte code."""

    path: Path
    python: str
    ipykernel: str
    seconds: float
    size: int
    cold: Mapping[str, float]


def find(digest: str) -> Environment | None:
    """The environment of `digest` (`sha256:…`), if it is here and its interpreter still exists."""
    path = place_of(digest)
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        if not (path / "bin" / "python").exists():
            return None
        return Environment(path=path, **manifest)
    except (OSError, ValueError, TypeError):
        return None


def used(path: Path) -> None:
    """Note that an environment is used now, so that no clean-up takes it for abandoned."""
    with contextlib.suppress(OSError):  # one that cannot be written cannot be removed either
        (path / USED).touch()


def find_build(ref: str, *, name: str) -> Environment:
    """The environment of the build `local:<name>@sha256-…`. Raises `NotOnThisMachineError`."""
    found = find(ref.rpartition("@")[2].replace("-", ":", 1))
    if found is None:
        raise NotOnThisMachineError(
            f"the environment of `{ref}` is not on this machine",
            hint=f"`template-builder build {name} --target local` makes it",
        )
    used(found.path)
    return found


def place_of(digest: str) -> Path:
    """Where the environment of `digest` is, or would be."""
    return cache_folder() / "environments" / digest.replace(":", "-")


def sandbox_variables(env: Mapping[str, str], *, path: Path, home: Path) -> dict[str, str]:
    """The whole environment of a sandbox's process: the template's, and nothing that is secret."""
    variables = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    variables |= {name: _rebased(value, home) for name, value in env.items()}
    search = [
        str(path / "bin"),
        *filter(None, [variables.get("PATH")]),
        "/usr/local/bin",
        "/usr/bin",
        "/bin",
    ]
    return variables | {"HOME": str(home), "PATH": ":".join(search), "VIRTUAL_ENV": str(path)}


def _rebased(value: str, home: Path) -> str:
    for known in _SANDBOX_HOMES:
        if value == known or value.startswith(f"{known}/"):
            return f"{home}{value.removeprefix(known)}"
    return value
