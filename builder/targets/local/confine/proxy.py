"""The HTTP proxy outside of a confined sandbox: the sandbox's only way to other machines.

A sandbox has its own network, which contains only a listening socket. This process serves that
socket. It compares a host with the sandbox's `network`, then resolves the name, and connects to the
address that it has checked. It never connects to this machine or to private networks. It does not
look at the content of allowed connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from builder.sandbox.network import Network
from builder.targets.local.confine.addresses import is_own, is_public
from builder.targets.local.confine.requests import HEADER_BYTES, BadRequestError, Request, parse

_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
# At once; each takes two of this process's file descriptors.
_CONNECTIONS = 64
_CHUNK_BYTES = 1 << 16
_COUNTED_HOSTS = 1000
_OTHERS = "other hosts"
_END_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Waits:
    """Time-outs, in seconds, for a request, for a connection to each address, and for the next
    byte."""

    header: float = 15.0
    connect: float = 10.0
    idle: float = 600.0


class Outside(Protocol):
    """The network of this machine."""

    async def resolve(self, host: str, port: int) -> list[str]:
        """Return the addresses of a host. Raises `OSError`."""

    async def connect(self, address: str, port: int) -> _Streams:
        """Open a connection. Raises `OSError`."""


class _Internet:
    async def resolve(self, host: str, port: int) -> list[str]:
        loop = asyncio.get_running_loop()
        answers = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(address[0]) for *_, address in answers))

    async def connect(self, address: str, port: int) -> _Streams:
        return await asyncio.open_connection(address, port)


class _UnansweredError(Exception):
    """There is no connection; `status` and the message are the answer."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class _RefusedError(_UnansweredError):
    """The host may not be reached."""

    def __init__(self, reason: str) -> None:
        super().__init__(403, reason)


class Proxy:
    """Serves the listening sockets of one sandbox on its own thread until it is closed."""

    def __init__(
        self, network: Network, *, outside: Outside | None = None, waits: Waits | None = None
    ) -> None:
        self._network, self._outside = network, outside or _Internet()
        self._waits = waits or Waits()
        self._refused: Counter[str] = Counter()
        self._listeners: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._connected = 0
        self._owner = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="sandbox-proxy", daemon=True)
        self._thread.start()

    @property
    def refused(self) -> Mapping[str, int]:
        """How often each host was refused."""
        return dict(self._refused)

    def serve(self, listener: socket.socket) -> None:
        """Accept the connections of a listening socket, which `close` closes."""
        listener.settimeout(0)
        self._listeners.append(listener)
        self._loop.call_soon_threadsafe(self._start, listener)

    def close(self) -> None:
        """End all connections. Closing twice is fine; closing in a forked process does nothing."""
        if os.getpid() == self._owner:
            with contextlib.suppress(RuntimeError):  # it is closed
                self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_END_SECONDS)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        for task in self._tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
        self._loop.close()
        for listener in self._listeners:
            listener.close()

    def _start(self, listener: socket.socket) -> None:
        self._keep(self._loop.create_task(self._accept(listener)))

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listener: socket.socket) -> None:
        # Connections beyond the limit are answered, too.
        limit = asyncio.Semaphore(2 * _CONNECTIONS)
        while True:
            await limit.acquire()
            await self._readable(listener)
            try:
                # Not by the loop, which loses a connection if the task is cancelled meanwhile.
                client, _ = listener.accept()
            except BlockingIOError:  # it is gone again
                limit.release()
            except OSError:  # the process has too many open files, or the client is gone
                limit.release()
                await asyncio.sleep(0.1)
            else:
                client.settimeout(0)
                self._begin(client, limit)

    async def _readable(self, listener: socket.socket) -> None:
        readable = asyncio.Event()
        self._loop.add_reader(listener, readable.set)
        try:
            await readable.wait()
        finally:
            self._loop.remove_reader(listener)

    def _begin(self, client: socket.socket, limit: asyncio.Semaphore) -> None:
        def end(_task: asyncio.Task[None]) -> None:
            client.close()
            limit.release()

        task = self._loop.create_task(self._serve(client))
        task.add_done_callback(end)
        self._keep(task)

    async def _serve(self, client: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=client, limit=HEADER_BYTES)
        async with _closing(writer):
            try:
                await self._converse(reader, writer)
            except* OSError:  # either end has closed its connection, or was idle for long
                pass

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await self._request(reader)
            async with self._connection(request) as (remote_reader, remote_writer):
                if request.forwarded is None:
                    writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                else:
                    remote_writer.write(request.forwarded)
                both = (reader, remote_writer), (remote_reader, writer)
                await _relay(*both, idle=self._waits.idle)
        except (BadRequestError, _UnansweredError) as error:
            await _answer(reader, writer, error.status, str(error))

    async def _request(self, reader: asyncio.StreamReader) -> Request:
        try:
            async with asyncio.timeout(self._waits.header):
                return parse(await reader.readuntil(b"\r\n\r\n"))
        except TimeoutError:
            raise _UnansweredError(408, "the request took too long") from None
        except asyncio.LimitOverrunError:
            message = f"the header of the request is longer than {HEADER_BYTES} bytes"
            raise BadRequestError(message, 431) from None
        except asyncio.IncompleteReadError:
            raise BadRequestError("the request ends within its header") from None

    @contextlib.asynccontextmanager
    async def _connection(self, request: Request) -> AsyncIterator[_Streams]:
        if self._connected == _CONNECTIONS:
            raise _UnansweredError(
                503, f"a sandbox has at most {_CONNECTIONS} connections at the same time"
            )
        self._connected += 1
        try:
            reader, writer = await self._connect(request)
            async with _closing(writer):
                yield reader, writer
        except _RefusedError:
            known = request.host in self._refused or len(self._refused) < _COUNTED_HOSTS
            self._refused[request.host if known else _OTHERS] += 1
            raise
        finally:
            self._connected -= 1

    async def _connect(self, request: Request) -> _Streams:
        host, failure = request.host, "it has no address"
        if not self._network.allows(host):
            raise _RefusedError(f"the `network` of this sandbox does not allow {host}")
        try:
            async with asyncio.timeout(self._waits.connect):
                addresses = await self._outside.resolve(host, request.port)
        except (OSError, UnicodeError) as error:
            raise _UnansweredError(502, f"{host} cannot be resolved") from error
        if not all(is_public(address) and not is_own(address) for address in addresses):
            raise _RefusedError(
                f"{host} is not on the Internet, and sandboxes do not reach this machine or private"
                " networks"
            )
        for address in addresses:
            try:
                async with asyncio.timeout(self._waits.connect):
                    return await self._outside.connect(address, request.port)
            except TimeoutError:
                failure = "no answer"
            except OSError as error:
                failure = (error.strerror or str(error)).splitlines()[0]
        raise _UnansweredError(502, f"{host} cannot be reached: {failure}")


async def _relay(*directions: _Streams, idle: float) -> None:
    """Copy from each reader to its writer until both have ended or have been idle for long. Raises
    `TimeoutError`, and a group of `OSError`."""
    clock = asyncio.get_running_loop().time
    async with asyncio.timeout(idle) as limit, asyncio.TaskGroup() as group:

        async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(_CHUNK_BYTES):
                if not limit.expired():
                    limit.reschedule(clock() + idle)
                writer.write(data)
                await writer.drain()
            writer.write_eof()

        for reader, writer in directions:
            group.create_task(copy(reader, writer))


async def _answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, status: int, reason: str
) -> None:
    """Answer with the reason in the first line and in the body, where clients show it."""
    body = f"{reason}\n".encode()
    fields = (
        f"HTTP/1.1 {status} {reason}",
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(body)}",
        "Connection: close",
    )
    writer.write("\r\n".join((*fields, "\r\n")).encode() + body)
    await writer.drain()
    writer.write_eof()
    # A connection that is closed with unread data is reset, and the answer may be lost.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1):
            while await reader.read(_CHUNK_BYTES):
                pass


@contextlib.asynccontextmanager
async def _closing(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    try:
        yield
    except BaseException:
        writer.transport.abort()
        raise
    writer.close()
    with contextlib.suppress(OSError):
        async with asyncio.timeout(_END_SECONDS):
            await writer.wait_closed()
    writer.transport.abort()
