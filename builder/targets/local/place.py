"""The locations of environments, by digest, and the variables of processes in them.

`environments/<digest>` is a symbolic link to the folder of the active environment. A rebuild makes
another folder beside it and moves the link in one step; processes in the previous folder go on.
(Earlier versions made `environments/<digest>` itself a folder, which still works.) A folder is in
use while a process holds a shared lock on its file `used`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.errors import NotOnThisMachineError
from builder.registry import Digest, Ref
from builder.system.documents import parse_json
from builder.system.files import atomic_write, cache_folder
from builder.system.variables import plain
from builder.targets.local.confine.walls import HOME

MANIFEST = "environment.json"
USED = "used"
MADE = "made-"
MEASURES = "measured.json"
# What a process needs from outside, and nothing that may be a secret.
_PASSED_ON = ("LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR")
# No byte code is written beside modules of the environment; no pip, such as the host's, installs
# outside a virtual environment or asks questions.
_KEPT_OUT = {"PYTHONDONTWRITEBYTECODE": "1", "PIP_REQUIRE_VIRTUALENV": "1", "PIP_NO_INPUT": "1"}
# Where programs are on every Linux and macOS.
_PATH = "/usr/local/bin:/usr/bin:/bin"
# The homes of an E2B sandbox; paths below them become paths below the local sandbox's home.
_SANDBOX_HOMES = ("/root", "/home/user")


@dataclass(frozen=True, kw_only=True, slots=True)
class Environment:
    """A complete environment. Making it took `seconds`, its `size` is in bytes; `cold` has the
    seconds that each warm-up module took when it was first imported."""

    path: Path
    python: str
    ipykernel: str
    seconds: float
    size: int
    cold: Mapping[str, float]


def place_of(digest: str) -> Path:
    """Return where the environment of `digest` is looked for."""
    return cache_folder() / "environments" / Digest(digest).tag


def packages_of(environment: Path) -> Path:
    """Return the folder of an environment's packages. Raises `FileNotFoundError`."""
    for packages in environment.glob("lib/*/site-packages"):
        return packages
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(environment / "lib"))


def byte_code_folder() -> Path:
    """Return where the byte code of packages is stored for environments to link to."""
    return cache_folder() / "byte-code"


def lock_of(digest: str) -> Path:
    """Return the file to lock while environments of `digest` are made or removed."""
    return cache_folder() / "locks" / f"{Digest(digest).tag}.lock"


def folder_of(digest: str) -> Path:
    """Return the folder of the active environment of `digest`, whether it exists or not."""
    path = place_of(digest)
    try:
        return path.with_name(os.readlink(path))
    except OSError:
        return path


def placed_since(digest: str, moment: float) -> bool:
    """Return whether the environment of `digest` was activated after `moment`."""
    with contextlib.suppress(OSError):
        return os.lstat(place_of(digest)).st_mtime >= moment
    return False


def find(digest: str) -> Environment | None:
    """Return the environment of `digest` (`sha256:…`), if it and its interpreter exist."""
    return read(folder_of(digest))


def read(path: Path) -> Environment | None:
    """Return the environment in a folder, if it is complete."""
    try:
        manifest = parse_json((path / MANIFEST).read_text(encoding="utf-8"))
        if not (path / "bin" / "python").exists():
            return None
        return Environment(path=path, **manifest)
    except (OSError, ValueError, TypeError):
        return None


def keep_measures(path: Path, measures: Mapping[str, Any]) -> None:
    """Store measurements of an environment beside it. Raises `StorageError`."""
    atomic_write(path / MEASURES, (json.dumps(measures, indent=2) + "\n").encode())


def measures(digest: str) -> dict[str, Any]:
    """Return the measurements of the environment of `digest` on this machine, if there are any."""
    try:
        measured = parse_json((folder_of(digest) / MEASURES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return measured if isinstance(measured, dict) else {}


def find_build(ref: str, *, name: str) -> Environment:
    """Return the environment of a build. Raises `NotOnThisMachineError`."""
    environment = find(Ref(ref).digest)
    if environment is None:
        raise NotOnThisMachineError(
            f"the environment of `{ref}` is not on this machine",
            hint=f"`template-builder build {name} --frozen --target local` makes it",
        )
    return environment


@contextlib.contextmanager
def opened(ref: str, *, name: str) -> Iterator[Path]:
    """Yield the folder of a build, which is not removed inside the `with` block. Raises
    `NotOnThisMachineError`."""
    with contextlib.ExitStack() as stack:
        while True:
            path = find_build(ref, name=name).path
            try:
                stack.enter_context(held(path))
            except FileNotFoundError:
                continue  # it was removed meanwhile
            yield path
            return


@contextlib.contextmanager
def held(path: Path) -> Iterator[tuple[int, ...]]:
    """Keep an environment from being removed; yield the descriptors that a process inherits to do
    the same while it runs. Raises `FileNotFoundError` if it has been removed."""
    file = path / USED
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    except FileNotFoundError:
        raise
    except OSError:  # of another user, whose removal also waits for readers
        try:
            descriptor = os.open(file, os.O_RDONLY)
        except OSError:
            yield ()  # what cannot be written cannot be removed
            return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if not os.path.samestat(os.fstat(descriptor), os.stat(file)):
            raise FileNotFoundError(file)
        with contextlib.suppress(OSError):  # of another user
            os.utime(descriptor)
        yield (descriptor,)
    finally:
        os.close(descriptor)


def sandbox_variables(env: Mapping[str, str], *, path: Path, home: Path) -> dict[str, str]:
    """Return all variables of a sandbox's process: those of the template, and no secrets."""
    variables = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    variables |= {name: _rebased(plain(value, path=_PATH), home) for name, value in env.items()}
    search = [str(path / "bin"), *variables.get("PATH", "").split(":"), *_PATH.split(":")]
    return (
        variables
        | {
            "HOME": str(home),
            "PATH": ":".join(filter(None, dict.fromkeys(search))),
            "VIRTUAL_ENV": str(path),
        }
        | _KEPT_OUT
    )


def confined_variables(env: Mapping[str, str], *, path: str) -> dict[str, str]:
    """Return all variables of a process behind walls, where paths are as the template has them."""
    variables = sandbox_variables({}, path=Path(path), home=Path(HOME))
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        if not os.path.realpath(variables.get(name, "/usr")).startswith(("/usr/", "/etc/ssl/")):
            variables.pop(name, None)
    variables |= {name: plain(value, path=_PATH) for name, value in env.items()}
    search = [f"{path}/bin", *variables["PATH"].split(":"), *_PATH.split(":")]
    return variables | {
        "PATH": ":".join(filter(None, dict.fromkeys(search))),
        "IPYTHONDIR": "/tmp/.ipython",  # noqa: S108 - of a sandbox
    }


def _rebased(value: str, home: Path) -> str:
    for known in _SANDBOX_HOMES:
        if value == known or value.startswith(f"{known}/"):
            return f"{home}{value.removeprefix(known)}"
    return value
