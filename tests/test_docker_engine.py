from __future__ import annotations

import contextlib
import hashlib
import json
import re
import socket
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import errors
from tests import engine
from tests.conftest import Command

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


@pytest.fixture
def remote() -> Iterator[str]:
    """The engine, reached over TCP as one on another machine is."""
    engine.client()
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
    engine.client()
    (tmp_path / "other.sock").symlink_to(SOCKET)
    meta = tmp_path / "contexts" / "meta" / hashlib.sha256(b"elsewhere").hexdigest() / "meta.json"
    meta.parent.mkdir(parents=True)
    host = {"Host": f"unix://{tmp_path}/other.sock", "SkipTLSVerify": False}
    described = {"Name": "elsewhere", "Metadata": {}, "Endpoints": {"docker": host}}
    meta.write_text(json.dumps(described))
    (tmp_path / "config.json").write_text('{"currentContext": "elsewhere"}')
    variables = {"DOCKER_CONFIG": str(tmp_path)}
    found = command("doctor", cwd=project, **variables)
    assert re.search(r"^ok +docker +engine \d", found.stdout, re.MULTILINE), found.stdout
    (tmp_path / "other.sock").unlink()
    gone = command("precheck", cwd=project, **variables)
    assert gone.returncode == errors.EngineUnavailableError.exit_code
    assert gone.stderr.startswith(
        f"error: no Docker engine answers at unix://{tmp_path}/other.sock"
    )
