from __future__ import annotations

import contextlib
import gc
import hashlib
import http.server
import json
import re
import socket
import socketserver
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import errors
from builder.precheck.engine import DockerEngine
from builder.project import PrecheckSettings
from tests.conftest import Command
from tests.support import engine
from tests.support.clouds import Place
from tests.support.e2b_server import Server

SOCKET = "/var/run/docker.sock"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")

NOWHERE = {"DOCKER_HOST": "unix:///nowhere/docker.sock"}
TOLD = (
    "error: no Docker engine answers at unix:///nowhere/docker.sock\n\n"
    "hint: install one (docs.docker.com/engine/install), start it, or name another one with"
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


def copied(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while part := source.recv(1 << 16):
            target.sendall(part)
        target.shutdown(socket.SHUT_WR)


class Forwarder(socketserver.BaseRequestHandler):
    """A connection to the engine's socket, for one that came over TCP."""

    def handle(self) -> None:
        with socket.socket(socket.AF_UNIX) as engine_side:
            engine_side.connect(SOCKET)
            back = threading.Thread(target=copied, args=(engine_side, self.request), daemon=True)
            back.start()
            copied(self.request, engine_side)
            back.join()


def local_engine() -> None:
    """Skip the test unless an engine answers at the usual socket of this machine."""
    engine.client()
    if not Path(SOCKET).exists():
        pytest.skip(f"the engine is not at {SOCKET}")


@pytest.fixture
def remote() -> Iterator[str]:
    """The engine, reached over TCP as one on another machine is."""
    local_engine()
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Forwarder) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"tcp://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.docker
@pytest.mark.network
def test_engine_of_another_machine(project: Path, command: Command, remote: str) -> None:
    """Nothing of a pre-check needs the engine to be on this machine: no port, no shared folder."""
    base = project / "variants" / "_base.toml"
    base.write_text(base.read_text().replace("localhost:1/python:3.13", engine.base_image()))
    (project / "variants" / "light.toml").write_text(
        "schema = 1\nname = 'light'\nextends = '_base'\n[[verify]]\nname = 'x'\ncode = 'print(1)'\nstdout = '1'\n"
    )
    settings = '[tool.template-builder.precheck]\nnetwork = "host"\n'
    if CERTIFICATES.exists():
        settings += f'ca-bundle = "{CERTIFICATES}"\n'
    (project / "pyproject.toml").write_text(settings)
    found = command("precheck", "light", cwd=project, DOCKER_HOST=remote)
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines()[1].split()[:2] == ["light", "good"]


@pytest.mark.docker
def test_engine_of_the_current_context(tmp_path: Path, project: Path, command: Command) -> None:
    """What `docker context use` chose is the engine that is used."""
    local_engine()
    (tmp_path / "other.sock").symlink_to(SOCKET)
    meta = tmp_path / "contexts" / "meta" / hashlib.sha256(b"elsewhere").hexdigest() / "meta.json"
    meta.parent.mkdir(parents=True)
    host = {"Host": f"unix://{tmp_path}/other.sock", "SkipTLSVerify": False}
    described = {"Name": "elsewhere", "Metadata": {}, "Endpoints": {"docker": host}}
    meta.write_text(json.dumps(described))
    (tmp_path / "config.json").write_text('{"currentContext": "elsewhere"}')
    variables = {"DOCKER_CONFIG": str(tmp_path), "DOCKER_HOST": ""}
    found = command("doctor", cwd=project, **variables)
    assert re.search(r"^ok +docker +engine \d", found.stdout, re.MULTILINE), found.stdout
    (tmp_path / "other.sock").unlink()
    gone = command("precheck", cwd=project, **variables)
    assert gone.returncode == errors.EngineUnavailableError.exit_code
    assert gone.stderr.startswith(
        f"error: no Docker engine answers at unix://{tmp_path}/other.sock"
    )


@pytest.mark.docker
@pytest.mark.network
def test_engine_that_cannot_pull_stops_no_build_on_e2b(
    place: Place, cloud: Server, command: Command
) -> None:
    """Where the engine cannot pull the base image, `auto` warns and builds on E2B; `always` ends
    with that error, and builds nothing."""
    local_engine()
    always = command("build", "four", "--frozen", "--precheck", "always", cwd=place.folder)
    assert always.returncode == errors.NetworkError.exit_code
    what = "the base image localhost:1/python:3.13 is not on the engine and cannot be pulled"
    assert f"error: {what}" in always.stderr
    assert cloud.builds() == []
    auto = command("build", "four", "--frozen", cwd=place.folder)
    assert auto.returncode == 0, auto.stderr
    assert f"four: warning: not pre-checked with Docker: {what}: Get " in auto.stderr
    assert "failed" not in auto.stderr
    assert [build.status for build in cloud.builds()] == ["ready"]
