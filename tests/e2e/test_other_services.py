"""A template whose service is a web server and no code interpreter, in Docker."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Command
from tests.support import engine
from tests.support.clouds import Place, render_all
from tests.support.e2b_server import DockerSteps, Server
from tests.support.prechecks import CERTIFICATES, share_known

pytestmark = [pytest.mark.docker, pytest.mark.network]
SPEC = """
schema = 1
name = "pages"
extends = "_base"
[env]
GREETING = "it's $$HOME"
SSL_CERT_FILE = "/etc/ssl/certs/ca-certificates.crt"
[service]
command = ["python3", "-m", "http.server", "8501", "--directory", "/opt/template"]
{ready}
[python]
packages = ["six"]
[warmup]
level = "disk"
imports = ["six"]
[[verify]]
name = "the account, its folder and its variables"
command = "whoami; pwd; echo \\"$GREETING\\"; python3 -c 'import six; print(six.__name__)'; exit 4"
exit-code = 4
stdout = '''
user
/home/user
it's $HOME
six
'''
[[verify]]
name = "a file is served"
http = {{url = "http://localhost:8501/requirements/pages.txt", contains = "six=="}}
[[verify]]
name = "another is not"
http = {{url = "http://127.0.0.1:8501/absent", status = 404}}
"""
CHECKS = [
    "import six",
    "the account, its folder and its variables",
    "a file is served",
    "another is not",
]


def project(write: Callable[..., Path], ready: str) -> Path:
    base = f'schema = 1\n[base]\nimage = "{engine.base_image()}"\npython = ">=3.11"\n'
    folder = write(_base=base, pages=SPEC.format(ready=ready)).parent
    settings = '[tool.template-builder.precheck]\nnetwork = "host"\nready-seconds = 300\n'
    if CERTIFICATES.exists():
        settings += f'ca-bundle = "{CERTIFICATES}"\n'
    (folder / "pyproject.toml").write_text(settings)
    return folder


READY = 'ready-command = ["bash", "-c", "exec 3<>/dev/tcp/localhost/8501 || exit 1"]'


@pytest.mark.slow
def test_precheck_of_a_web_server(
    write: Callable[..., Path], command: Command, shared: Path
) -> None:
    """A pre-check waits until the service is ready, runs commands as `user` in a login shell, and
    sends requests inside the container."""
    folder = project(write, READY)
    share_known(folder, shared / "known")
    done = command("precheck", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    (checked,) = json.loads(done.stdout)
    assert checked["checks"] == CHECKS
    assert checked["first_use"]["disk"]["six"] > 0


@pytest.mark.slow
def test_web_server_from_its_steps(
    write: Callable[..., Path], lead: Callable[[Server], Server]
) -> None:
    """The steps for E2B make a machine whose service is ready, and in which the checks hold."""
    folder = project(write, "ready-port = 8501")
    place = Place(folder)
    render_all(place.project(), frozen=False)
    with Server(DockerSteps()) as server:
        lead(server)
        outcome = place.build("pages")["pages"]
        assert outcome.error is None, outcome.error
        assert server.running == {}
        assert server.problems == []
    assert place.recorded("pages")["verified"]["checks"] == CHECKS
