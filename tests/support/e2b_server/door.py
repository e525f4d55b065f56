"""Serve the stand-in for E2B as a cluster does: at a domain, over TLS, with its own certificates."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import trustme
import uvicorn

from tests.support.e2b_server.server import Server

DOMAIN = "cloud.test"


class Door:
    """A TLS proxy from every host to `server`; use it as a context manager.

    `environment` makes a client use it; `hosts` are the requested hosts.
    """

    def __init__(self, server: Server, folder: Path) -> None:
        authority, chain, key = trustme.CA(), folder / "chain.pem", folder / "key.pem"
        certificate = authority.issue_cert(f"api.{DOMAIN}", f"*.{DOMAIN}")
        authority.cert_pem.write_to_path(folder / "ca.pem")
        certificate.private_key_pem.write_to_path(key)
        for part in certificate.cert_chain_pems:
            part.write_to_path(chain, append=True)
        self.hosts: set[str] = set()
        self._server = uvicorn.Server(
            uvicorn.Config(
                server.front, log_level="critical", lifespan="off", ssl_certfile=chain,
                ssl_keyfile=key,
            )
        )  # fmt: skip
        self._tls, self._proxy = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
        self._threads = [
            threading.Thread(target=self._server.run, args=([self._tls],)),
            threading.Thread(target=self._accept),
        ]
        self.environment = {
            "HTTPS_PROXY": f"http://127.0.0.1:{self._proxy.getsockname()[1]}",
            "SSL_CERT_FILE": str(folder / "ca.pem"),
        }

    def __enter__(self) -> Door:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._proxy.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._proxy.close()
        self._tls.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._proxy.accept()
            except OSError:
                return
            threading.Thread(target=self._lead, args=(client,), daemon=True).start()

    def _lead(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(4096)
        method, host, _ = head.split(b" ", 2)
        assert method == b"CONNECT"
        self.hosts.add(host.decode())
        client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        with client, socket.create_connection(self._tls.getsockname()) as server:
            back = threading.Thread(target=_copy, args=(server, client), daemon=True)
            back.start()
            _copy(client, server)
            back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass
