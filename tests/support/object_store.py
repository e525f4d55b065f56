"""An object store for tests: an S3 server in a thread of the test process."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import obstore.store
import pytest

__all__ = ["Store", "store"]


class Store:
    """An S3 server with one empty bucket."""

    def __init__(self) -> None:
        # Every process that runs tests loads this module, and few of their tests need a store.
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        backends = DomainDispatcherApplication(create_backend_app)
        alone = threading.Lock()
        self.losing = ""
        self.lost = 0

        def one_at_a_time(environ: Any, start_response: Any) -> list[bytes]:
            # A store compares and swaps in one step; moto's threads do not.
            with alone:
                if not self.losing or environ["REQUEST_METHOD"] != "PUT":
                    return list(backends(environ, start_response))
                list(backends(environ, lambda *_: None))
                how = self.losing
                self.lost -= 1
                if self.lost == 0:
                    self.losing = ""
                if how == "500":
                    start_response("500 Internal Server Error", [("Content-Length", "0")])
                    return []
                environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
                raise ConnectionResetError

        self._server = make_server("127.0.0.1", 0, one_at_a_time, threaded=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self.variables = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "an-access-key",
            "AWS_SECRET_ACCESS_KEY": "canary-secret-of-s3",
            "AWS_REGION": "us-east-1",
        }
        httpx.post(f"{self.endpoint}/moto-api/reset").raise_for_status()
        httpx.put(f"{self.endpoint}/bucket").raise_for_status()
        self._bucket = obstore.store.S3Store(
            "bucket",
            endpoint=self.endpoint,
            access_key_id=self.variables["AWS_ACCESS_KEY_ID"],
            secret_access_key=self.variables["AWS_SECRET_ACCESS_KEY"],
            region="us-east-1",
            client_options={"allow_http": True},
        )

    def lose_answers(self, how: str, count: int) -> None:
        """Apply the next `count` PUTs and lose their answers: `500` or `reset`."""
        self.losing, self.lost = how, count

    def text(self) -> str:
        return bytes(self._bucket.get("team/registry.json").bytes()).decode()

    def write(self, text: str) -> None:
        self._bucket.put("team/registry.json", text.encode())

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Store]:
    """Start a store, and use it for this test with an empty cache."""
    server = Store()
    for name, value in server.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TEMPLATE_BUILDER_CACHE_DIR", str(tmp_path / "cache"))
    try:
        yield server
    finally:
        server.stop()
