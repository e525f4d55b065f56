"""Files of a sandbox on E2B, through the SDK.

E2B's service in the sandbox runs as root, so it can read whatever code has made. What it writes
belongs to the sandbox's default account, `user`.
"""

from __future__ import annotations

import contextlib
import logging
import posixpath
import secrets
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence

import e2b

from builder.errors import (
    NetworkError,
    NoSandboxFileError,
    SandboxFileError,
    SandboxGoneError,
    TemplateError,
)
from builder.sandbox.files import (
    LEVELS,
    WORKING_FOLDER,
    Changes,
    FileEntry,
    Incoming,
    Listing,
    normal_path,
    shown,
    watched,
)
from builder.system.tasks import run_to_completion
from builder.targets.e2b.failures import kind_of

_logger = logging.getLogger(__name__)
_MOST_ENTRIES = 5000


class CloudFiles:
    """The files of a sandbox. One caller at a time."""

    def __init__(self, sandbox: e2b.AsyncSandbox) -> None:
        self._files = sandbox.files
        self._changes = Changes()
        self._levels = LEVELS

    @contextlib.asynccontextmanager
    async def read(self, path: str) -> AsyncIterator[Incoming]:
        """Open a file for reading."""
        place = _full(path)
        with _worded(path):
            info = await self._files.get_info(place)
            if info.symlink_target is not None:  # the size is that of the link
                place = info.symlink_target
                info = await self._files.get_info(place)
            if info.type is e2b.FileType.DIR:
                raise SandboxFileError(f"{shown(path)} in the sandbox is a folder, not a file")
            if info.type is not e2b.FileType.FILE:
                raise SandboxFileError(f"{shown(path)} in the sandbox is not a regular file")
            stream = await self._files.read(place, format="stream")
        async with stream:
            yield Incoming(size=info.size, chunks=_chunks(path, stream, info.size))

    async def write(self, path: str, chunks: AsyncIterator[bytes]) -> FileEntry:
        """Write a file under a temporary name, then rename it."""
        place = _full(path)
        temporary = posixpath.join(posixpath.dirname(place), f".{secrets.token_hex(8)}.part")
        source = _Source(chunks)
        try:
            with _worded(path):
                await self._send(temporary, source)
                info = await self._rename(path, temporary, place)
        except BaseException:
            with contextlib.suppress(Exception):
                await run_to_completion(self._files.remove(temporary))
            if source.failure is not None:
                raise source.failure from None
            raise
        self._changes.written(path, _stamp(info))
        return _entry(info)

    async def entries(self, path: str) -> list[FileEntry]:
        """Return the entries of a folder."""
        with _worded(path):
            return [_entry(info) for info in await self._files.list(_full(path), depth=1)]

    async def remove(self, path: str) -> None:
        """Remove a file, a link, or a folder with its content."""
        with _worded(path):
            await self._files.get_info(_full(path))  # fails if it does not exist; `remove` does not
            await self._files.remove(_full(path))
        self._changes.removed(path)

    async def changed(self) -> list[FileEntry]:
        """Return the files of the working folder that code made or changed since the last call."""
        with _worded("."):
            infos = await self._files.list(WORKING_FOLDER, depth=self._levels)
        entries = [(_entry(info), _stamp(info)) for info in infos]
        files = {
            entry.path: (entry, stamp)
            for entry, stamp in entries
            if entry.type == "file" and all(map(watched, entry.path.split("/")[:-1]))
        }
        listing = Listing(files=files, levels=self._levels)
        if len(infos) > _MOST_ENTRIES and self._levels > 1:
            self._levels = _levels_within([entry for entry, _ in entries])
            _logger.warning(
                "the working folder has more than %d files: not all changed files are listed",
                _MOST_ENTRIES,
            )
        return self._changes.since_last(listing)

    async def _send(self, place: str, source: _Source) -> None:
        try:
            await self._files.write(place, source, use_octet_stream=True)
        except e2b.TemplateException:
            # Older templates accept only forms, in which the SDK streams a file.
            with tempfile.TemporaryFile() as file:
                async for chunk in source:
                    file.write(chunk)
                file.seek(0)
                await self._files.write(place, file)

    async def _rename(self, path: str, temporary: str, place: str) -> e2b.EntryInfo:
        try:
            return await self._files.rename(temporary, place)
        except e2b.SandboxException:
            with contextlib.suppress(e2b.SandboxException):
                if (await self._files.get_info(place)).type is e2b.FileType.DIR:
                    raise SandboxFileError(
                        f"{shown(path)} in the sandbox is a folder, not a file"
                    ) from None
            raise


class _Source:
    """Chunks to send; it keeps their source's error, which the SDK would take for its own."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self.failure: BaseException | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._chunks:
                yield chunk
        except Exception as error:
            self.failure = error
            raise


def _full(path: str) -> str:
    return posixpath.normpath(posixpath.join(WORKING_FOLDER, path))


def _entry(info: e2b.EntryInfo) -> FileEntry:
    is_link = info.symlink_target is not None or info.type is e2b.FileType.SYMLINK
    is_folder = info.type is e2b.FileType.DIR
    return FileEntry(
        name=info.name,
        path=normal_path(info.path),
        size=info.size,
        type="link" if is_link else "folder" if is_folder else "file",
        modified=info.modified_time,
    )


def _stamp(info: e2b.EntryInfo) -> object:
    return info.size, info.modified_time


def _levels_within(entries: Sequence[FileEntry]) -> int:
    """Return how many levels of folders to list so that they have few enough entries."""
    depths = sorted(entry.path.count("/") for entry in entries)
    return max(1, depths[_MOST_ENTRIES])


async def _chunks(path: str, stream: AsyncIterator[bytes], size: int) -> AsyncIterator[bytes]:
    received = 0
    with _worded(path):
        async for chunk in stream:
            received += len(chunk)
            yield chunk
    if received < size:
        raise SandboxFileError(
            f"{shown(path)} changed while it was read: it had {size:,} bytes, and then only"
            f" {received:,}"
        )


@contextlib.contextmanager
def _worded(path: str) -> Iterator[None]:
    """Translate what the SDK raises about a path."""
    try:
        yield
    except TemplateError:
        raise
    except e2b.FileNotFoundException as error:
        raise NoSandboxFileError(f"the sandbox has no {shown(path)}") from error
    except e2b.NotEnoughSpaceException as error:
        raise SandboxFileError(
            f"the sandbox's disk is full: there is no room for {shown(path)}",
            hint="remove files of the sandbox",
        ) from error
    except e2b.SandboxNotRunningException as error:
        raise SandboxGoneError(f"the sandbox is gone: {error}") from error
    except Exception as error:
        if kind_of(error) == "fault":
            raise NetworkError(
                f"{shown(path)} in the sandbox: cannot reach E2B: {error or type(error)}"
            ) from error
        raise SandboxFileError(f"{shown(path)} in the sandbox: {error}") from error
