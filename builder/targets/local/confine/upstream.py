"""The proxy that the application itself uses, through which connections of its sandboxes go, too.

It is in the variables that other programs read: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY.
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
_HEADER_BYTES = 1 << 16
_STATUS = re.compile(rb"HTTP/1\.[01] (?P<status>\d{3})(?P<reason> [ -~]{0,100})?")
_DEFAULT_PORT = 80


class UpstreamError(OSError):
    """The proxy cannot be used, or does not open a tunnel."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Upstream:
    """An HTTP proxy, which `variable` names."""

    variable: str
    host: str
    port: int
    credentials: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, variable: str, value: str) -> Upstream:
        """Read the value of a variable, with or without `http://`. Raises `UpstreamError`."""
        try:
            url = urlsplit(value if "://" in value else f"http://{value}")
            host, port = url.hostname, url.port or _DEFAULT_PORT
        except ValueError:
            host, port = None, 0
        if not host or url.scheme != "http":  # the value may contain a password
            raise UpstreamError(
                f"the proxy in {variable} has no address that begins with http://, as sandboxes"
                " need it"
            )
        credentials = None
        if url.username is not None:
            credentials = f"{unquote(url.username)}:{unquote(url.password or '')}"
        return cls(variable=variable, host=host, port=port, credentials=credentials)

    async def tunnel(self, host: str, port: int) -> Streams:
        """Open a connection to a host through the proxy. Raises `UpstreamError`."""
        try:
            reader, writer = await asyncio.open_connection(
                self.host, self.port, limit=_HEADER_BYTES
            )
        except OSError as error:
            # Its own text may contain the address of the proxy, which is not for the code.
            why = f": {os.strerror(error.errno)}" if error.errno and error.errno > 0 else ""
            raise UpstreamError(f"the proxy in {self.variable} does not answer{why}") from error
        try:
            writer.write(self._request(f"[{host}]:{port}" if ":" in host else f"{host}:{port}"))
            answer = _STATUS.match(await reader.readuntil(b"\r\n\r\n"))
            if answer is None or not answer["status"].startswith(b"2"):
                status = answer[0].partition(b" ")[2].decode() if answer else "without a status"
                raise UpstreamError(f"the proxy in {self.variable} answered {status}")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            writer.transport.abort()
            raise UpstreamError(f"the proxy in {self.variable} closed the connection") from error
        except BaseException:
            writer.transport.abort()
            raise
        return reader, writer

    def _request(self, authority: str) -> bytes:
        lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
        if self.credentials is not None:
            encoded = base64.b64encode(self.credentials.encode()).decode()
            lines.append(f"Proxy-Authorization: Basic {encoded}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode()


class Upstreams:
    """The proxies in the variables of this process."""

    def __init__(self, variables: Mapping[str, str] | None = None) -> None:
        """`variables` are as `urllib.request.getproxies_environment` returns them."""
        from urllib.request import getproxies_environment  # slow to load

        self._variables = dict(getproxies_environment() if variables is None else variables)

    def of(self, host: str, port: int, *, scheme: str) -> Upstream | None:
        """Return the proxy for connections to a host, with the scheme `http` or `https`; None if
        they do not go through one. Raises `UpstreamError`."""
        for kind in (scheme, "all"):
            value = self._variables.get(kind)
            if value and not self._bypassed(host, port):
                return Upstream.of(f"{kind.upper()}_PROXY", value)
        return None

    def hosts(self) -> set[str]:
        """Return the hosts of all proxies."""
        hosts = set()
        for kind in ("http", "https", "all"):
            try:
                hosts.add(Upstream.of(kind, self._variables.get(kind, "")).host)
            except UpstreamError:
                continue
        return hosts

    def _bypassed(self, host: str, port: int) -> bool:
        from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined] # no stub

        return bool(proxy_bypass_environment(f"{host}:{port}", self._variables))
