"""Package indexes on loopback that answer for every host, over real TLS.

The server is an HTTP proxy whose tunnels all end at itself, with a certificate for the requested
host. A client with the environment `variables` reaches nothing else. The path of a request tells
which index it is for, so no host is named here: the server records the requested ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import socket
import ssl
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar

import pytest
import trustme

JSON = "application/vnd.pypi.simple.v1+json"
_T = TypeVar("_T")

# How a host fails: the proxy has no route to it, hangs up or keeps the client waiting; its
# certificate is not trusted; it answers with an error, without a content type, with something other
# than JSON or HTML, or with a login page.
Failure = Literal[
    "no route", "hangs up", "silent", "untrusted", "503", "403", "401", "no type", "text", "login"
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Wheel:
    """A wheel of an index."""

    filename: str
    metadata: bytes
    content: bytes
    size: int | None = None  # what the index says it is, where that is not the truth

    @property
    def name(self) -> str:
        """The project's name, as in the paths of an index."""
        return self.filename.partition("-")[0].replace("_", "-")


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A request to an index."""

    host: str
    path: str


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def wheel(
    name: str,
    version: str,
    tag: str = "py3-none-any",
    *,
    requires: Sequence[str] = (),
    **files: str,
) -> Wheel:
    """Return a wheel with a module of the same name, or with `files` as sources of its modules."""
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {r}" for r in requires]
    lines += [f"Provides-Extra: {x}" for r in requires for x in re.findall(r"extra == '(\w+)'", r)]
    metadata = "".join(f"{line}\n" for line in lines)
    contents = {f"{module}.py": source for module, source in files.items()} | {
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}\n",
    }
    contents[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*contents, f"{info}/RECORD"])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, text in contents.items():
            # An entry with a fixed time, so that the same wheel has the same hash in every run.
            archive.writestr(zipfile.ZipInfo(path), text)
    return Wheel(
        filename=f"{stem}-{tag}.whl", metadata=metadata.encode(), content=buffer.getvalue()
    )


class IndexServer(ThreadingHTTPServer):
    """Serves `indexes`, each below its path, on every host; use it as a context manager.

    `tunnels` are the hosts that clients connected to, `requests` their requests. `down` are the
    hosts that fail, and how; with `all_down`, every host does. With `says_sizes`, the pages list
    the sizes of the files.
    """

    daemon_threads = False

    def __init__(self, indexes: Mapping[str, Sequence[Wheel]], folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.tunnels: list[str] = []
        self.requests: list[Request] = []
        self.down: dict[str, Failure] = {}
        self.all_down: Failure | None = None
        self.says_sizes = False
        self.closing = threading.Event()
        self.answers = dict(answers(indexes))
        self._authority, self._stranger = trustme.CA(), trustme.CA()
        self._bundle = folder / "authority.pem"
        self._authority.cert_pem.write_to_path(str(self._bundle))
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,))

    @property
    def variables(self) -> dict[str, str]:
        """Return the variables that make a client use this server, and trust it."""
        proxy = f"http://127.0.0.1:{self.server_port}"
        return {"HTTPS_PROXY": proxy, "SSL_CERT_FILE": str(self._bundle)}

    def failure(self, host: str) -> Failure | None:
        """Return how `host` fails, or None if it works."""
        return self.all_down or self.down.get(host)

    def hosts(self, below: str) -> set[str]:
        """Return the hosts that were asked for something below a path."""
        return {request.host for request in self.requests if request.path.startswith(below)}

    def paths(self, below: str) -> list[str]:
        """Return the requested paths below a path, in order."""
        return [request.path for request in self.requests if request.path.startswith(below)]

    def context(self, host: str) -> ssl.SSLContext:
        """Return the server's TLS context for `host`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        issuer = self._stranger if self.failure(host) == "untrusted" else self._authority
        issuer.issue_cert(host).configure_cert(context)
        return context

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect: uv drops a connection once it has what it needs."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def __enter__(self) -> IndexServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.closing.set()
        self.shutdown()
        self._thread.join()
        self.server_close()


@contextlib.contextmanager
def served(folder: Path, indexes: Mapping[str, Sequence[Wheel]]) -> Iterator[IndexServer]:
    """Start an index server, the only one that uv can reach, and give uv an empty cache."""
    with IndexServer(indexes, folder) as index, pytest.MonkeyPatch.context() as monkeypatch:
        for name in os.environ:
            foreign = name.startswith("UV_") and not name.startswith("UV_PYTHON_")
            if foreign or name.lower().endswith("_proxy") or name == "SSL_CERT_DIR":
                monkeypatch.delenv(name)
        for name, value in index.variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("UV_CACHE_DIR", str(folder / "uv"))
        monkeypatch.setenv("UV_NO_CONFIG", "1")
        yield index


class _Tls(io.RawIOBase):
    """The server's side of TLS, over a socket that stays open.

    `SSLContext.wrap_socket` leaks the socket if the client disconnects before the handshake.
    """

    def __init__(self, connection: socket.socket, context: ssl.SSLContext) -> None:
        self._connection = connection
        self._received, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._to_send, server_side=True)
        self._done(self._tls.do_handshake)

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            content = self._done(lambda: self._tls.read(len(buffer)))
        except ssl.SSLError:  # the end, whether it was announced or not
            return 0
        buffer[: len(content)] = content
        return len(content)

    def write(self, content: Any) -> int:
        return self._done(lambda: self._tls.write(content))

    def _done(self, action: Callable[[], _T]) -> _T:
        """Return the result of `action`, having sent and received what it needs."""
        while True:
            try:
                return action()
            except ssl.SSLWantReadError:
                pass
            finally:
                self._connection.sendall(self._to_send.read())
            if received := self._connection.recv(1 << 16):
                self._received.write(received)
            else:
                self._received.write_eof()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 20  # so that a client that never ends cannot keep the server from closing
    server: IndexServer

    def do_CONNECT(self) -> None:
        host = self.path.rpartition(":")[0]
        self.server.tunnels.append(host)
        failure = self.server.failure(host)
        self.close_connection = True
        if failure == "hangs up":
            return
        if failure == "no route":
            self._answer(502)
            return
        self.send_response(200)
        self.end_headers()
        if failure == "silent":
            self.server.closing.wait()
            return
        try:
            tls = _Tls(self.connection, self.server.context(host))
        except ssl.SSLError:
            return  # the client does not trust the certificate, or has gone
        self.rfile.close()
        self.rfile, self.wfile = io.BufferedReader(tls), io.BufferedWriter(tls)
        self.close_connection = False

    def do_GET(self) -> None:
        host = self.headers["Host"]
        self.server.requests.append(Request(host=host, path=self.path))
        content = self.server.answers.get(self.path)
        json_wanted = self.server.says_sizes and JSON in self.headers.get("Accept", "")
        kind: str | None = ""
        if json_wanted and f"{self.path}{JSON}" in self.server.answers:
            content, kind = self.server.answers[f"{self.path}{JSON}"], JSON
        failure = self.server.failure(host)
        if failure in ("503", "403", "401"):
            self._answer(int(failure))
        elif failure in ("no type", "text", "login"):
            kind = {"no type": None, "text": "text/plain", "login": "text/html"}[failure]
            self._answer(200, b"<!DOCTYPE html><html><body>Log in</body></html>", kind)
        elif content is None:
            self._answer(404)
        else:
            self._answer(200, content, kind)

    def do_HEAD(self) -> None:
        content = self.server.answers.get(self.path)
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()

    def log_message(self, *_arguments: Any) -> None:
        """Log nothing: the server's lists have the requests."""

    def _answer(self, status: int, content: bytes = b"", kind: str | None = "") -> None:
        if kind == "":
            kind = "text/html" if self.path.endswith("/") else "application/octet-stream"
        self.send_response(status)
        if kind:
            self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def answers(indexes: Mapping[str, Sequence[Wheel]]) -> Iterator[tuple[str, bytes]]:
    """Yield every path of the indexes, with its answer."""
    for index, wheels in indexes.items():
        pages: dict[str, list[tuple[str, Wheel]]] = {}
        for wheel in wheels:
            path = f"{index}/files/{wheel.filename.replace('+', '%2B')}"
            yield path, wheel.content
            yield f"{path}.metadata", wheel.metadata
            pages.setdefault(wheel.name, []).append((path, wheel))
        for name, listed in pages.items():
            links = [
                f'<a href="{path}#sha256={sha256(wheel.content)}"'
                f' data-core-metadata="sha256={sha256(wheel.metadata)}">{wheel.filename}</a>'
                for path, wheel in listed
            ]
            page = f"<!DOCTYPE html><html><body>{'<br>'.join(links)}</body></html>"
            yield f"{index}/{name}/", page.encode()
            files = [
                {
                    "filename": wheel.filename,
                    "url": path,
                    "hashes": {"sha256": sha256(wheel.content)},
                    "core-metadata": {"sha256": sha256(wheel.metadata)},
                    "size": wheel.size or len(wheel.content),
                }
                for path, wheel in listed
            ]
            document = {"meta": {"api-version": "1.1"}, "name": name, "files": files}
            yield f"{index}/{name}/{JSON}", json.dumps(document).encode()
