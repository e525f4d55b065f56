"""A stand-in for the Internet, and the sandbox's side of the proxy to it."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import http.server
import socket
import socketserver
import threading
from collections.abc import Iterator, Mapping

from builder.targets.local.confine.proxy import Proxy

PUBLIC = "93.184.216.34"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Answers(http.server.BaseHTTPRequestHandler):
    """Answers with the request that it received."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        size = int(self.headers.get("Content-Length", "0"))
        body = self.rfile.read(size) or f"{self.path} {self.headers['Host']}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *arguments: object) -> None:
        pass


class Names:
    """A stand-in for the Internet with given names, where every address is one server of this
    machine."""

    def __init__(self, names: Mapping[str, list[list[str]]], port: int) -> None:
        self.names = {name: list(answers) for name, answers in names.items()}
        self.asked: list[str] = []
        self.connected: list[tuple[str, int]] = []
        self.dead: set[str] = set()
        self._port = port

    async def resolve(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        if host not in self.names:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        answers = self.names[host]
        return answers.pop(0) if len(answers) > 1 else answers[0]

    async def connect(self, address: str, port: int) -> Streams:
        self.connected.append((address, port))
        if address in self.dead:
            raise ConnectionRefusedError(111, "Connect call failed")
        return await asyncio.open_connection("127.0.0.1", self._port)


@contextlib.contextmanager
def serving(handler: type[socketserver.BaseRequestHandler]) -> Iterator[int]:
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


class Sandbox:
    """The sandbox's side of a proxy: a port of its own."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        proxy.serve(listener)

    def connect(self, data: bytes = b"") -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), 20)
        connection.sendall(data)
        return connection

    def send(self, data: bytes) -> tuple[int, str]:
        """Return the status and the reason of the answer, whose text is the same reason."""
        with self.connect(data) as connection:
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            text = answer.read().decode()
            if answer.status != 200:
                assert text == f"{answer.reason}\n"
            return answer.status, text.strip()

    def open(self, host: str, port: object = 443) -> tuple[int, str]:
        with self.connect(f"CONNECT {host}:{port} HTTP/1.1\r\n\r\n".encode()) as connection:
            answer = http.client.HTTPResponse(connection, method="CONNECT")
            answer.begin()
            return answer.status, answer.reason

    def get(self, url: str) -> tuple[int, str]:
        return self.send(f"GET {url} HTTP/1.1\r\nHost: elsewhere\r\n\r\n".encode())
