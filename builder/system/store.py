"""Keep fetched files by the SHA-256 of their content, in the cache, for all projects.

A file is complete as soon as it has its name. It is read-only, and checked whenever it is used.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from builder.errors import StorageError, from_os_error
from builder.system.documents import parse_json
from builder.system.files import atomic_write, cache_folder

_CHUNK_BYTES = 1 << 20
_TRANSFER_SECONDS = 86400.0


def folder() -> Path:
    """Return the folder of the store. Raises `StorageError`."""
    return cache_folder() / "content"


def size_of(sha256: str) -> int | None:
    """Return the size of a stored file without reading it; None if it is not stored."""
    with contextlib.suppress(OSError):
        return (folder() / sha256).stat().st_size
    return None


def find(sha256: str) -> Path | None:
    """Return a stored file if it is there and intact, and note that it is used."""
    path = folder() / sha256
    try:
        with path.open("rb") as file:
            intact = hash_of(file) == sha256
        if intact:
            # Environments that link to it notice changes by its other time.
            os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
            return path
        path.unlink()
    except OSError:
        pass
    return None


class Incoming:
    """A file on its way into the store; `sha256` and `size` are those of what was written."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self._hash = hashlib.sha256()
        self.size = 0

    @property
    def sha256(self) -> str:
        """Return the hash of what was written so far."""
        return self._hash.hexdigest()

    def write(self, chunk: bytes) -> None:
        """Append a chunk. Raises `StorageError`."""
        try:
            self._file.write(chunk)
        except OSError as error:
            raise from_os_error(error, f"writing `{self._path.parent}`") from error
        self._hash.update(chunk)
        self.size += len(chunk)

    def keep(self) -> Path:
        """Store the file, and return its place. Raises `StorageError`."""
        place = folder() / self.sha256
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            os.chmod(self._path, 0o444)
            os.replace(self._path, place)
        except OSError as error:
            raise from_os_error(error, f"writing `{place}`") from error
        return place


@contextlib.contextmanager
def incoming() -> Iterator[Incoming]:
    """Yield a new file; unless it is kept, it is removed at the end. Raises `StorageError`."""
    path = folder() / f".{secrets.token_hex(8)}.part"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("xb")
    except OSError as error:
        raise from_os_error(error, f"writing `{path.parent}`") from error
    try:
        with file:
            yield Incoming(path, file)
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def adopt(path: Path) -> str:
    """Move a file into the store, and return its SHA-256. Raises `StorageError`."""
    try:
        with path.open("rb") as file:
            sha256 = hash_of(file)
        path.chmod(0o444)
        os.replace(path, folder() / sha256)
    except OSError as error:
        raise from_os_error(error, f"moving `{path}` into the store") from error
    return sha256


def note(address: str, known: dict[str, str]) -> None:
    """Note the `sha256` of what is at an address, with whatever tells whether that has changed."""
    with contextlib.suppress(StorageError):  # only costs another transfer
        atomic_write(_note_of(address), json.dumps(known).encode(), durable=False)


def noted(address: str) -> dict[str, str] | None:
    """Return what was noted of an address, if the store still has that file."""
    try:
        known = parse_json(_note_of(address).read_text(encoding="utf-8"))
        return known if find(known["sha256"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _note_of(address: str) -> Path:
    return folder() / "addresses" / f"{hashlib.sha256(address.encode()).hexdigest()}.json"


def unused(seconds: float) -> Iterator[tuple[Path, int, float]]:
    """Yield each file that was not used for `seconds` and that no environment has, with its size
    and the seconds since it was used; also what interrupted transfers left behind."""
    for path in sorted(folder().glob("*")) if folder().is_dir() else ():
        with contextlib.suppress(OSError):
            status = path.lstat()
            age = time.time() - max(status.st_atime, status.st_mtime)
            is_left_behind = path.name.startswith(".") and age > _TRANSFER_SECONDS
            is_unused = stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and age >= seconds
            if is_left_behind or (is_unused and not path.name.startswith(".")):
                yield path, status.st_size, age


def hash_of(file: BinaryIO) -> str:
    """Return the SHA-256 of the rest of an open file."""
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()
