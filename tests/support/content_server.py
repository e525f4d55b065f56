"""An HTTP server on loopback for files that specs download."""

from __future__ import annotations

import contextlib
import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class ContentServer:
    """Serves `files` by path; `sent` are the paths whose content it has sent, in order.

    `statuses` are those of paths that fail, `cut` the paths whose transfer breaks off once. With
    `etags`, an unchanged file is not sent again.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)
    etags: bool = True

    def respond(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer a GET or HEAD."""
        path = handler.path.lstrip("/")
        content = self.files.get(path)
        if content is None or path in self.statuses:
            handler.send_error(self.statuses.get(path, 404))
            return
        etag = f'"{sha256(content)}"'
        if self.etags and handler.headers.get("If-None-Match") == etag:
            handler.send_response(304)
            handler.end_headers()
            return
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        if path.endswith(".gz"):  # as some servers do, although it is the archive itself
            handler.send_header("Content-Encoding", "gzip")
        if self.etags:
            handler.send_header("ETag", etag)
        handler.end_headers()
        if handler.command == "HEAD":
            return
        if path in self.cut:
            self.cut.remove(path)
            content = content[: len(content) // 2]
        self.sent.append(path)
        handler.wfile.write(content)


@contextlib.contextmanager
def served(respond: Callable[[BaseHTTPRequestHandler], None], *methods: str) -> Iterator[str]:
    """Run a server on loopback that answers requests of `methods`; yield its address."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            respond(self)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Say nothing."""

    for method in methods:
        setattr(Handler, f"do_{method}", Handler.answer)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_port}"
        finally:
            running.shutdown()
            thread.join()


@contextlib.contextmanager
def serving() -> Iterator[ContentServer]:
    """Run a server for the `with` block."""
    server = ContentServer()
    with served(server.respond, "GET", "HEAD") as server.url:
        yield server


@pytest.fixture
def content_server() -> Iterator[ContentServer]:
    """A server for files that specs download."""
    with serving() as server:
        yield server


def tar_of(
    files: Mapping[str, str], *, links: Mapping[str, str] | None = None, mode: str = "w:gz"
) -> bytes:
    """Return a tar archive; files whose name ends in `.sh` are executable."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode=mode) as tar:  # type: ignore[call-overload]
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text), 0o775 if name.endswith(".sh") else 0o664
            tar.addfile(entry, io.BytesIO(text.encode()))
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    return archive.getvalue()


def zip_of(files: Mapping[str, str]) -> bytes:
    """Return a zip archive; files whose name ends in `.sh` are executable."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as bundle:
        for name, text in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (0o100755 if name.endswith(".sh") else 0o100644) << 16
            bundle.writestr(entry, text)
    return archive.getvalue()
