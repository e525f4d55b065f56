"""`executor.files`: copy files into and out of a sandbox.

It handles forms of data, local files, progress on a terminal, and hints. Each target transfers
files by its own `SandboxFiles`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import posixpath
import secrets
import stat
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, BinaryIO

from builder.errors import NoSandboxFileError, SandboxFileError, TemplateError, did_you_mean
from builder.sandbox.files import FileEntry, Incoming, SandboxFiles, normal_path, shown
from builder.system.tasks import run_to_completion

_CHUNK_BYTES = 1 << 18

FilePath = str | os.PathLike[str]
FileData = bytes | bytearray | memoryview | str | BinaryIO | Iterable[bytes] | AsyncIterable[bytes]
_Entries = list[FileEntry]  # `list` is a method of the class


class Files:
    """The files of a primitive's sandbox.

    Relative paths start at the folder that code starts in, even after it has changed to another
    one. Each call opens a session if there is none, and waits for code that runs in it. Raises
    `FileNotFoundError` and other `SandboxFileError`s for files of the sandbox, `ValueError` for an
    invalid path, and what `open` raises for local files.
    """

    def __init__(self, opened: Callable[[], AbstractAsyncContextManager[SandboxFiles]]) -> None:
        self._opened = opened

    async def write(self, path: FilePath, data: FileData) -> FileEntry:
        """Write a file: bytes, text as UTF-8, a file open in binary mode, or an iterable of bytes.

        Parent folders are created, and an existing file is replaced in one step: if writing fails
        or is cancelled, nothing has changed.
        """
        place = _file_path(path)
        chunks = _chunks(data)
        async with self._opened() as files:
            return await files.write(place, chunks)

    async def read(self, path: FilePath) -> bytes:
        """Read a file into memory."""
        async with self._reading(path, held=True) as file:
            return b"".join([chunk async for chunk in file.chunks])

    async def read_text(self, path: FilePath) -> str:
        """Read a file of UTF-8 text into memory."""
        content = await self.read(path)
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            raise SandboxFileError(
                f"{shown(_file_path(path))} in the sandbox is not UTF-8 text: {error.reason} at"
                f" byte {error.start}",
                hint="`read` returns its bytes",
            ) from error

    @contextlib.asynccontextmanager
    async def stream(self, path: FilePath) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open a file for the `async with` block, and yield its content in chunks.

        Other calls need not wait for the end of the block.
        """
        async with self._reading(path, held=False) as file:
            yield file.chunks

    async def list(self, path: FilePath = ".") -> _Entries:
        """List a folder, sorted by name."""
        place = normal_path(path)
        async with self._opened() as files, _hinted(files, place):
            return sorted(await files.entries(place), key=lambda entry: entry.name)

    async def remove(self, path: FilePath) -> None:
        """Remove a file, a link, or a folder with its content."""
        place = _file_path(path)
        async with self._opened() as files, _hinted(files, place):
            await files.remove(place)

    async def upload(self, local: FilePath, path: FilePath | None = None) -> FileEntry:
        """Copy a local file into the sandbox, under its own name unless a `path` is given.

        On a terminal, progress is shown on standard error.
        """
        place = _file_path(Path(local).name if path is None else path)
        async with self._opened() as files:
            return await _uploaded(files, Path(local), place)

    async def download(self, path: FilePath, local: FilePath) -> None:
        """Copy a file of the sandbox to a local path, replacing an existing file in one step.

        On a terminal, progress is shown on standard error.
        """
        place, target = _file_path(path), Path(local)
        _check_replaceable(target)
        temporary = target.with_name(f".{secrets.token_hex(8)}.part")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        async with self._reading(path, held=True) as file:
            descriptor = os.open(temporary, flags, 0o666)
            try:
                with os.fdopen(descriptor, "wb") as output, _progress(place, file.size) as advance:
                    async for chunk in file.chunks:
                        await run_to_completion(asyncio.to_thread(output.write, chunk))
                        advance(len(chunk))
                os.replace(temporary, target)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise

    @contextlib.asynccontextmanager
    async def _reading(self, path: FilePath, *, held: bool) -> AsyncIterator[Incoming]:
        """Open a file; the session is `held` to the end, or only while the file is being opened."""
        place = _file_path(path)
        async with contextlib.AsyncExitStack() as stack:
            async with contextlib.AsyncExitStack() as holding:
                files = await holding.enter_async_context(self._opened())
                async with _hinted(files, place):
                    file = await stack.enter_async_context(files.read(place))
                if held:
                    stack.push_async_exit(holding.pop_all())
            yield file


async def put(files: SandboxFiles, path: str, data: bytes | str | Path) -> None:
    """Write a file of an execution's input: its content, or the local file at a `Path`."""
    if isinstance(data, Path):
        await _uploaded(files, data, normal_path(path))
    else:
        await files.write(normal_path(path), _chunks(data))


async def _uploaded(files: SandboxFiles, local: Path, place: str) -> FileEntry:
    with open(local, "rb") as file:  # noqa: ASYNC230 - opening is quick, reading is in a thread
        size = os.fstat(file.fileno()).st_size
        with _progress(place, size) as advance:
            return await files.write(place, _counted(_chunks(file), advance))


def _file_path(path: FilePath) -> str:
    place = normal_path(path)
    if place == ".":
        raise ValueError("the path is the working folder, expected a file")
    return place


def _chunks(data: Any) -> AsyncIterator[bytes]:
    """Return content of any supported form in chunks. Raises `TypeError`."""
    if isinstance(data, str):
        data = data.encode()
    if isinstance(data, bytes | bytearray | memoryview):
        return _parts_of(memoryview(data).cast("B"))
    if hasattr(data, "read"):
        return _read(data)
    if isinstance(data, AsyncIterable):
        return _checked(data)
    if isinstance(data, Iterable):
        return _checked(_iterated(data))
    raise TypeError(
        f"a file cannot be written from {type(data).__name__}, expected bytes, text, a file open"
        " in binary mode, or an iterable of bytes"
    )


async def _parts_of(data: memoryview) -> AsyncIterator[bytes]:
    for start in range(0, len(data), _CHUNK_BYTES):
        yield bytes(data[start : start + _CHUNK_BYTES])


async def _read(file: Any) -> AsyncIterator[bytes]:
    while True:
        chunk = await run_to_completion(asyncio.to_thread(file.read, _CHUNK_BYTES))
        if isinstance(chunk, str):
            raise TypeError("the file is open in text mode, expected binary: open(…, 'rb')")
        if not chunk:
            return
        yield bytes(chunk)


async def _iterated(data: Iterable[Any]) -> AsyncIterator[Any]:
    for chunk in data:
        yield chunk


async def _checked(chunks: AsyncIterable[Any]) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        if not isinstance(chunk, bytes | bytearray | memoryview):
            raise TypeError(f"a chunk of the file is {type(chunk).__name__}, expected bytes")
        async for part in _parts_of(memoryview(chunk).cast("B")):
            yield part


async def _counted(
    chunks: AsyncIterator[bytes], advance: Callable[[int], None]
) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        yield chunk
        advance(len(chunk))


@contextlib.asynccontextmanager
async def _hinted(files: SandboxFiles, path: str) -> AsyncIterator[None]:
    """Suggest a file of a similar name in the error for a missing one."""
    try:
        yield
    except NoSandboxFileError as error:
        with contextlib.suppress(TemplateError):
            folder, name = posixpath.split(path)
            names = [entry.name for entry in await files.entries(folder or ".")]
            error.hint = did_you_mean(name, names)
        raise


def _check_replaceable(path: Path) -> None:
    """Raise `OSError` if a local path exists and is neither a file nor a link."""
    with contextlib.suppress(FileNotFoundError):
        kind = path.lstat().st_mode
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(kind) and not stat.S_ISLNK(kind):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))


@contextlib.contextmanager
def _progress(name: str, size: int) -> Iterator[Callable[[int], None]]:
    """Show how much of a file is copied on standard error, if it is a terminal."""
    if not os.isatty(2):
        yield lambda _: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    console = Console(stderr=True, emoji=False)
    disable = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=disable) as progress:
        task = progress.add_task(escape(shown(name)), total=size)
        yield lambda count: progress.advance(task, count)
