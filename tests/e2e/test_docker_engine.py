from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import itertools
import json
import re
import socket
import socketserver
import subprocess
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import docker
import pytest

from builder import errors
from builder.precheck.engine import DockerEngine
from builder.precheck.machine import Machine
from builder.project import PrecheckSettings
from tests.conftest import Command
from tests.support import engine
from tests.support.clouds import Place
from tests.support.e2b_server import Server
from tests.support.prechecks import share_known

SOCKET = "/var/run/docker.sock"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


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


@pytest.mark.slow
@pytest.mark.docker
@pytest.mark.network
def test_engine_of_another_machine(
    project: Path, command: Command, remote: str, shared: Path
) -> None:
    """A pre-check needs no port or shared folder of the engine's machine."""
    base = project / "variants" / "_base.toml"
    base.write_text(base.read_text().replace("localhost:1/python:3.13", engine.base_image()))
    (project / "variants" / "remote.toml").write_text(
        "schema = 1\nname = 'remote'\nextends = '_base'\n[[verify]]\nname = 'x'\ncode = 'print(1)'\nstdout = '1'\n"
    )
    settings = '[tool.template-builder.precheck]\nnetwork = "host"\n'
    if CERTIFICATES.exists():
        settings += f'ca-bundle = "{CERTIFICATES}"\n'
    (project / "pyproject.toml").write_text(settings)
    share_known(project, shared / "known")
    checked = command("precheck", "remote", cwd=project, DOCKER_HOST=remote)
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.splitlines()[1].split()[:2] == ["remote", "good"]


@pytest.mark.slow
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
    checked = command("doctor", cwd=project, **variables)
    assert re.search(r"^ok +docker +engine \d", checked.stdout, re.MULTILINE), checked.stdout
    (tmp_path / "other.sock").unlink()
    gone = command("precheck", cwd=project, **variables)
    assert gone.returncode == errors.EngineUnavailableError.exit_code
    assert gone.stderr.startswith(
        f"error: no Docker engine answers at unix://{tmp_path}/other.sock"
    )


@pytest.mark.slow
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


@pytest.fixture
def images(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """Create images with the labels of a pre-check, named by their role; the digest is this test's
    name."""
    name, now = request.node.name, dt.datetime.now(dt.UTC)
    labels = {"template-builder.precheck": "leaf", "template-builder.digest": name}
    hours = {"parent": 3, "old layer": 2, "new layer": 0}
    loaded = {
        kind: engine.load_image(
            labels,
            tag=f"{engine.LABEL}/{name}" if kind == "parent" else None,
            created=(now - dt.timedelta(hours=age)).isoformat(),
        )
        for kind, age in hours.items()
    }
    yield loaded
    for identity in loaded.values():
        with contextlib.suppress(docker.errors.ImageNotFound):
            engine.client().images.remove(identity)


@pytest.mark.docker
def test_tidying_leaves_what_another_run_builds_on(images: dict[str, str]) -> None:
    """A run removes old untagged images, but no recent ones, which may be layers of a build that
    runs at the same time."""
    docker_engine = DockerEngine(PrecheckSettings())
    docker_engine.tidy()
    left = [kind for kind, identity in images.items() if docker_engine.has_image(identity)]
    assert left == ["parent", "new layer"]


@pytest.mark.docker
def test_a_parent_is_the_image_with_a_tag(
    images: dict[str, str], request: pytest.FixtureRequest
) -> None:
    """The image of a parent is the one with a tag, not a newer layer of a child, which has the same
    labels."""
    parent = SimpleNamespace(digest=request.node.name)
    rendered: Any = SimpleNamespace(variant=SimpleNamespace(name="child", parent=parent))
    assert DockerEngine(PrecheckSettings()).base_of(rendered).identity == images["parent"]


@pytest.mark.slow
@pytest.mark.docker
def test_lost_output_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command whose output Docker's library loses is run again, and fails after four losses."""
    with engine.running(engine.base_image()) as container:
        machine, run = Machine(container), container.exec_run
        losses: Iterator[bool] = iter([True, False])

        def lossy(*arguments: Any, **options: Any) -> Any:
            result: Any = run(*arguments, **options)
            return result._replace(output=(None, None)) if next(losses) else result

        monkeypatch.setattr(container, "exec_run", lossy)
        command = ["sh", "-c", "echo printed; echo complained >&2; exit 3"]
        assert machine.run(command) == (3, "printed\n", "complained\n")
        losses = itertools.cycle([True])
        with pytest.raises(errors.PrecheckError) as caught:
            machine.run(["echo", "a b"])
    assert caught.value.message == ("the output of `echo 'a b'` in the container was lost 4 times")


@pytest.fixture
def service() -> Any:
    """A variant of one test, whose containers no test that runs at the same time counts."""
    return SimpleNamespace(name=f"service-{uuid.uuid4().hex[:8]}", cpu=1, memory_mb=256)


@pytest.mark.docker
@pytest.mark.parametrize(("network", "expected"), [("host", 1), ("none", 2)])
def test_services_with_the_ports_of_the_host_take_turns(
    network: str, expected: int, service: Any
) -> None:
    """Of pre-checks in the host's network one at a time starts a service: its ports are those of
    every other. In networks of their own they run side by side."""
    docker_engine = DockerEngine(PrecheckSettings(network=network))
    image = docker_engine.image(engine.base_image())
    filters: Any = {"label": f"template-builder.precheck={service.name}"}
    waits = threading.Event()
    counts = []

    def second() -> None:
        with docker_engine.started(image, service, idle=False, waiting=waits.set):
            counts.append(
                len(engine.client().containers.list(filters=filters, ignore_removed=True))
            )

    with docker_engine.started(image, service, idle=False):
        thread = threading.Thread(target=second)
        thread.start()
        if network == "host":
            assert waits.wait(120)
        else:
            thread.join()
    thread.join()
    assert counts == [expected]
    assert waits.is_set() == (network == "host")


@pytest.mark.docker
def test_ports_of_a_killed_pre_check_are_free(
    monkeypatch: pytest.MonkeyPatch, service: Any
) -> None:
    """A pre-check that waits for the host's ports removes the container of a run that was killed."""
    docker_engine = DockerEngine(PrecheckSettings(network="host"))
    image = docker_engine.image(engine.base_image())
    with contextlib.ExitStack() as stack:
        with subprocess.Popen(["true"]) as killed:
            pass
        owner = f"{socket.gethostname()}:{killed.pid}"
        monkeypatch.setattr(docker_engine, "_labels", {"template-builder.owner": owner})
        first = stack.enter_context(docker_engine.started(image, service, idle=False))
        with docker_engine.started(image, service, idle=False) as machine:
            assert machine.state()[0] != "exited"
            with pytest.raises(docker.errors.NotFound):
                first.state()
