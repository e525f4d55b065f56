"""Parse the header of a request to the proxy. Nothing is sent or resolved here."""

from __future__ import annotations

import re
from dataclasses import dataclass

HEADER_BYTES = 1 << 16
_LINE = re.compile(r"(?P<method>[A-Za-z-]+) (?P<target>[!-~]+) HTTP/1\.[01]")
_URL = re.compile(r"http://(?P<authority>[^/?#]*)(?P<path>[!-~]*)", re.IGNORECASE)
_AUTHORITY = re.compile(
    r"(?:\[(?P<address>[0-9A-Fa-f:.]{2,45})\]|(?P<name>[0-9A-Za-z._-]{1,254}))(?::(?P<port>\d{1,5}))?"
)
_FIELD = re.compile(r"(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]+):[\t -~\x80-\xff]*")
# Fields for the proxy, not for the server.
_FOR_THE_PROXY = {
    *(
        "connection",
        "host",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "upgrade",
    ),
}


class BadRequestError(ValueError):
    """The request is malformed; `status` and the message are the answer."""

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A request for a host, whose name is in lower case. `forwarded` is the header for the server;
    it is None for CONNECT."""

    host: str
    port: int
    forwarded: bytes | None


def parse(header: bytes) -> Request:
    """Parse the header of a request, including its empty line. Raises `BadRequestError`."""
    first, *fields = header.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    line = _LINE.fullmatch(first)
    if line is None:
        raise BadRequestError("the first line is not that of an HTTP/1.1 request")
    for field in fields:
        if not _FIELD.fullmatch(field):
            raise BadRequestError("a line of the header is not a field")
    if line["method"] == "CONNECT":
        host, port = _host_and_port(line["target"], default=None)
        return Request(host=host, port=port, forwarded=None)
    url = _URL.fullmatch(line["target"])
    if url is None:
        raise BadRequestError("expected CONNECT, or a URL that begins with http://")
    host, port = _host_and_port(url["authority"], default=80)
    path = url["path"].partition("#")[0]
    lines = [
        f"{line['method']} {path if path.startswith('/') else f'/{path}'} HTTP/1.1",
        f"Host: {url['authority']}",
        *(field for field in fields if field.partition(":")[0].lower() not in _FOR_THE_PROXY),
        "Connection: close",
    ]
    forwarded = "".join(f"{each}\r\n" for each in lines) + "\r\n"
    return Request(host=host, port=port, forwarded=forwarded.encode("latin-1"))


def _host_and_port(authority: str, *, default: int | None) -> tuple[str, int]:
    parts = _AUTHORITY.fullmatch(authority)
    port = default if parts is None or parts["port"] is None else int(parts["port"])
    host = (parts["address"] or parts["name"]).lower().removesuffix(".") if parts else ""
    if port is None or not 1 <= port <= 65535 or not all(host.split(".")):
        raise BadRequestError("expected a host and a port, such as example.com:443")
    return host, port
