"""The HTTP proxy outside of a confined sandbox: the sandbox's only way to other machines.

A sandbox has its own network, which contains only a listening socket. This process serves that
socket. It compares a host with the sandbox's `network`, then resolves the name, and connects to the
address that it has checked, through the application's own proxy if there is one. It never connects
to this machine or to private networks. It does not look at the content of allowed connections.
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
from builder.targets.local.confine.refusals import Reason, Refusal, refusal
from builder.targets.local.confine.requests import HEADER_BYTES, BadRequestError, Request, parse
from builder.targets.local.confine.upstream import Streams, Upstream, UpstreamError, Upstreams

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

    async def connect(self, address: str, port: int) -> Streams:
        """Open a connection. Raises `OSError`."""


class _Internet:
    async def resolve(self, host: str, port: int) -> list[str]:
        loop = asyncio.get_running_loop()
        answers = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(address[0]) for *_, address in answers))

    async def connect(self, address: str, port: int) -> Streams:
        return await asyncio.open_connection(address, port)


class _UnansweredError(Exception):
    """There is no connection; `status` and the message are the answer."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class _RefusedError(_UnansweredError):
    """The host may not be reached."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(403, str(refusal))
        self.refusal = refusal


class Proxy:
    """Serves the listening sockets of one sandbox on its own thread until it is closed."""

    def __init__(
        self,
        network: Network,
        *,
        outside: Outside | None = None,
        upstreams: Upstreams | None = None,
        waits: Waits | None = None,
    ) -> None:
        self._network, self._outside = network, outside or _Internet()
        self._upstreams, self._waits = upstreams or Upstreams(), waits or Waits()
        self._refused: Counter[Refusal] = Counter()
        self._listeners: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._connected = 0
        self._owner = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="sandbox-proxy", daemon=True)
        self._thread.start()

    @property
    def refused(self) -> Mapping[Refusal, int]:
        """How often each host was refused, by reason."""
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
    async def _connection(self, request: Request) -> AsyncIterator[Streams]:
        if self._connected == _CONNECTIONS:
            raise _UnansweredError(
                503, f"a sandbox has at most {_CONNECTIONS} connections at the same time"
            )
        self._connected += 1
        try:
            reader, writer = await self._connect(request)
            async with _closing(writer):
                yield reader, writer
        except _RefusedError as error:
            refused = error.refusal
            if refused not in self._refused and len(self._refused) >= _COUNTED_HOSTS:
                refused = refused._replace(host=_OTHERS)
            self._refused[refused] += 1
            raise
        finally:
            self._connected -= 1

    async def _connect(self, request: Request) -> Streams:
        host, failure = request.host, "it has no address"
        if refused := refusal(self._network, host):
            raise _RefusedError(refused)
        try:
            scheme = "https" if request.forwarded is None else "http"
            upstream = self._upstreams.of(host, request.port, scheme=scheme)
        except UpstreamError as error:
            raise _UnansweredError(502, f"{host} cannot be reached: {error}") from error
        for destination in await self._destinations(request, upstream):
            try:
                async with asyncio.timeout(self._waits.connect):
                    if upstream:
                        return await upstream.tunnel(destination, request.port)
                    return await self._outside.connect(destination, request.port)
            except TimeoutError:
                failure = "no answer"
            except UpstreamError as error:
                failure = str(error)
            except OSError as error:
                failure = os.strerror(error.errno) if error.errno else str(error).splitlines()[0]
        raise _UnansweredError(502, f"{host} cannot be reached: {failure}")

    async def _destinations(self, request: Request, upstream: Upstream | None) -> list[str]:
        """Return the checked addresses of a host, or its name, which another proxy resolves."""
        host = request.host
        trusted = upstream is not None and not self._network.is_open
        try:
            addresses = await self._addresses(host, request.port)
        except (OSError, UnicodeError) as error:
            if trusted:
                return [host]
            if upstream:
                raise _RefusedError(Refusal(host, Reason.UNRESOLVED)) from error
            raise _UnansweredError(502, f"{host} cannot be resolved") from error
        if not all(is_public(address) and not is_own(address) for address in addresses):
            raise _RefusedError(Refusal(host, Reason.PRIVATE))
        for proxy in self._upstreams.hosts():
            # It could be asked for anything.
            with contextlib.suppress(OSError, UnicodeError):
                if host == proxy or {*addresses} & {*await self._addresses(proxy, 0)}:
                    raise _RefusedError(Refusal(host, Reason.PRIVATE))
        # The name is not resolved twice, with two results, unless its owner was chosen.
        return [host] if trusted else addresses

    async def _addresses(self, host: str, port: int) -> list[str]:
        async with asyncio.timeout(self._waits.connect):
            return await self._outside.resolve(host, port)


async def _relay(*directions: Streams, idle: float) -> None:
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
