"""Templates on E2B whose service is no code interpreter: a web application, or none at all."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator

import pytest

from builder.errors import SandboxError
from builder.runtime import CodeExecutionPrimitive
from tests.conftest import Command
from tests.support.clouds import Place
from tests.support.e2b_server import Server

LACKS = (
    "not provided by e2b: running code in its sandboxes, since `service.ready-url`"
    " (variants/four.toml:8) is not about http://localhost:49999, where E2B's code service answers:"
    " applications can run commands in them, and reach its service"
)


@pytest.fixture
def port() -> Iterator[int]:
    """A port of this machine, and thus of the stand-in's sandboxes, at which pages are served."""

    class Pages(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<title>Streamlit</title>")

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def app(port: int, *, contains: str = "Streamlit", stdout: str = "/home/user") -> str:
    """The rest of a spec of a web application."""
    return f"""[service]
command = ["streamlit", "run", "/home/user/app.py"]
ready-url = "http://localhost:{port}/"
[warmup]
level = "disk"
imports = ["iniconfig"]
[[verify]]
name = "it is the working folder"
command = "pwd | sed 's,.*/home,/home,'"
stdout = "{stdout}"
[[verify]]
name = "the page is served"
http = {{url = "http://localhost:{port}/", contains = "{contains}"}}
"""


@pytest.mark.slow
def test_web_application_is_built_and_verified(
    place: Place,
    cloud: Server,
    command: Command,
    port: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A template whose service is a web application is built, and verified by commands and requests,
    and by its packages; what it lacks is in the plan, the output and the record."""
    place.edit("four", lambda text: text + app(port))
    shown = command("plan", "four", "--target", "e2b", "--frozen", cwd=place.folder)
    assert (shown.returncode, LACKS in shown.stdout.splitlines()) == (0, True), shown.stdout
    outcome = place.build("four")["four"]
    assert outcome.error is None
    assert LACKS in place.warnings()
    recorded = place.recorded("four")
    assert recorded["verified"]["checks"] == [
        "import iniconfig",
        "it is the working folder",
        "the page is served",
    ]
    assert recorded["warnings"][-1] == LACKS
    assert "iniconfig" in recorded["packages"]
    assert recorded["verified"]["seconds"]["first_use"]["disk"]["iniconfig"] > 0
    assert cloud.running == {}
    assert recorded["runs_code"] is False
    monkeypatch.setenv("TEMPLATE_REGISTRY", str(place.folder / "registry.json"))
    with pytest.raises(SandboxError) as caught:
        CodeExecutionPrimitive(template_id="four", target="e2b")
    assert caught.value.message == (
        "nothing runs code in sandboxes of `four` on e2b: its service is not E2B's code service"
    )
    again = command("verify", "four", "--target", "e2b", "--json", cwd=place.folder)
    assert json.loads(again.stdout)["four"]["checks"] == recorded["verified"]["checks"]


def test_failed_checks_of_a_web_application(place: Place, cloud: Server, port: int) -> None:
    """A command or request that fails on E2B is named with its line, and nothing is recorded."""
    place.edit("four", lambda text: text + app(port, contains="Dash", stdout="/root"))
    error = place.build("four")["four"].error
    assert error
    assert error.message == (
        "`four` was built on `e2b` but failed verification:\n"
        "  variants/four.toml:13: check `it is the working folder` failed: expected '/root', got"
        " '/home/user'\n"
        "  variants/four.toml:17: check `the page is served` failed: expected 'Dash' in the answer of"
        f" http://localhost:{port}/, which begins with '<title>Streamlit</title>'"
    )
    assert not (place.folder / "registry.json").exists()
    assert cloud.running == {}


@pytest.mark.slow
def test_command_that_does_not_end_is_killed(place: Place, cloud: Server) -> None:
    """A command on E2B that exceeds its time is ended, and the check fails."""
    check = '[[verify]]\nname = "slow"\ncommand = "sleep 300"\ntimeout = 1\n'
    place.edit("four", lambda text: text + check)
    error = place.build("four")["four"].error
    assert error
    assert error.message.endswith(
        "variants/four.toml:7: check `slow` failed: it did not finish within 1 second"
    )


@pytest.mark.slow
def test_commands_run_beside_code(place: Place, cloud: Server) -> None:
    """A template with a code service has checks of both kinds."""
    check = '[[verify]]\nname = "both"\ncommand = "exit 7"\nexit-code = 7\n'
    place.edit("one", lambda text: text + check)
    assert place.build("one")["one"].error is None
    checks = place.recorded("one")["verified"]["checks"]
    assert checks == ["import packaging", "import idna", "a sum", "both"]


@pytest.mark.slow
def test_registry_is_rebuilt_without_a_code_service(
    place: Place, cloud: Server, command: Command
) -> None:
    """A build without a code service is put back into the registry with its packages, even if its
    spec is another by now."""
    place.edit("one", lambda text: text.replace('level = "memory"', 'level = "disk"'))
    text = (place.folder / "variants" / "_base.toml").read_text()
    place.edit("_base", lambda _: text.partition("[service]")[0])
    assert place.build("four")["four"].error is None
    (place.folder / "registry.json").unlink()
    place.edit("four", lambda text: text + '[env]\nA = "1"\n')
    done = command("registry", "rebuild", "four", "--target", "e2b", cwd=place.folder)
    assert done.returncode == 0, done.stderr
    assert "iniconfig" in place.recorded("four")["packages"]
    assert cloud.running == {}
