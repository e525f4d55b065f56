from __future__ import annotations

import gc
import http.server
import socket
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import errors
from builder.precheck.engine import DockerEngine, with_network
from builder.project import PrecheckSettings
from tests.conftest import Command

NOWHERE = {"DOCKER_HOST": "unix:///nowhere/docker.sock"}


TOLD = (
    "error: no Docker engine answers at unix:///nowhere/docker.sock\n\n"
    "hint: install one (docs.docker.com/engine/install), start it, or select another one with"
    " DOCKER_HOST or `docker context use`\n"
)


def test_precheck_without_an_engine(project: Path, command: Command) -> None:
    """Without a Docker engine precheck says so, and how to get one, before it does anything."""
    found = command("precheck", cwd=project, **NOWHERE)
    assert (found.returncode, found.stderr) == (errors.EngineUnavailableError.exit_code, TOLD)
    assert not (project / "generated").exists()


class NotAnEngine(http.server.BaseHTTPRequestHandler):
    """A web server that keeps its connections, and knows no path."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(params=["no socket", "stale socket", "a folder", "closed port", "other server"])
def unavailable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An address at which no engine answers."""
    path = tmp_path / "docker.sock"
    if request.param == "a folder":
        path.mkdir()
    elif request.param == "stale socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    if "port" not in request.param and "server" not in request.param:
        yield f"unix://{path}"
        return
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), NotAnEngine) as server:
        server.daemon_threads = True
        if request.param == "closed port":
            server.server_close()
            yield f"tcp://127.0.0.1:{server.server_port}"
            return
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"tcp://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_nothing_is_left_open_where_no_engine_answers(
    unavailable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look for an engine that is not there leaves no socket open."""
    monkeypatch.setenv("DOCKER_HOST", unavailable)
    gc.collect()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            DockerEngine(PrecheckSettings())
        except errors.EngineUnavailableError as error:
            message = error.message
        gc.collect()
    assert message == f"no Docker engine answers at {unavailable}"
    assert [str(warning.message) for warning in caught] == []


def test_command_without_a_network_in_a_pre_check() -> None:
    """The pre-check runs the command with a network, and says so; the command itself is unchanged."""
    text = 'FROM x\nRUN --network=none ["sh", "-c", "echo RUN --network=none x"]\n'
    dockerfile, note = with_network(text)
    assert dockerfile == 'FROM x\nRUN ["sh", "-c", "echo RUN --network=none x"]\n'
    assert note == (
        "the pre-check runs commands with `network = false` with a network: only BuildKit can run"
        " them without"
    )
    assert with_network(dockerfile) == (dockerfile, None)
