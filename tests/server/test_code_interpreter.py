"""Templates whose sandboxes on E2B could not run the code of their checks."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from builder.errors import InterpreterDiedError, PrecheckError, SandboxError
from builder.precheck.machine import Machine
from builder.precheck.machine_sandbox import open_sandbox
from builder.sandbox.execution import Execution
from builder.spec import Variant
from builder.targets.e2b.code_service import cannot_be_checked
from tests.conftest import BASE, Command
from tests.support.clouds import Place
from tests.support.e2b_server import Server
from tests.support.samples import load

WHY = "is not about http://localhost:49999, where E2B's code service answers"
CODE = "[[verify]]\nname = 'a sum'\ncode = 'print(1 + 1)'\n"


def with_service(folder: Path, url: str) -> Variant:
    service = f"[service]\ncommand = ['serve']\nready-url = '{url}'\n"
    leaf = f"schema = 1\nname = 'leaf'\nextends = '_base'\n{service}{CODE}"
    return load(folder, _base=BASE, leaf=leaf)["leaf"]


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:8501/",
        "http://localhost/",
        "https://localhost:49999/health",
    ],
)
def test_address_that_is_not_that_of_the_interpreter(tmp_path: Path, url: str) -> None:
    """A ready address that cannot be that of a code interpreter is named, with its line and that of
    what needs one."""
    reason = (
        f"nothing runs code in its sandboxes, since `service.ready-url` (variants/leaf.toml:6) {WHY}:"
        " write `command` or `http` instead of `code` in the check `a sum` (variants/leaf.toml:9)"
    )
    assert cannot_be_checked(with_service(tmp_path, url)) == reason


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_address_of_the_interpreter(tmp_path: Path, host: str) -> None:
    """The interpreter's port on the sandbox itself is taken, by any name of it."""
    assert cannot_be_checked(with_service(tmp_path, f"http://{host}:49999/health")) is None


def test_what_needs_code_is_found_before_the_build(
    place: Place, cloud: Server, command: Command
) -> None:
    """A variant that needs code, and whose service is no code interpreter, is blocked in the plan,
    and no build of it is begun."""
    streamlit = 'command = ["streamlit", "run", "/home/user/app.py"]\n'
    service = f'[service]\n{streamlit}ready-url = "http://localhost:8501/"\n'
    warm = '[warmup]\nlevel = "memory"\nimports = ["iniconfig"]\n'
    place.edit("four", lambda text: text + service + warm + CODE)
    done = command("plan", "four", "--frozen", "--target", "e2b", "--exit-code", cwd=place.folder)
    reason = (
        f"nothing runs code in its sandboxes, since `service.ready-url` (variants/four.toml:8) {WHY}:"
        " write `command` or `http` instead of `code` in the check `a sum` (variants/four.toml:14);"
        ' set `warmup.level` to "disk" (variants/four.toml:10)'
    )
    assert (done.returncode, f"  four: {reason}" in done.stderr) == (31, True), done.stderr
    done = command("build", "four", "--frozen", "--target", "e2b", cwd=place.folder)
    assert done.returncode == 31
    assert cloud.state.templates == {}


def test_other_address_of_the_interpreter_is_a_mistake(place: Place, cloud: Server) -> None:
    """A service that starts as E2B's code service does, and is ready elsewhere, is blocked."""
    start = '[service]\ncommand = ["/root/.jupyter/start-up.sh"]\nready-port = 8888\n'
    place.edit("four", lambda text: text + start)
    (planned,) = place.planned("four").variants
    assert (planned.action, str(planned.reasons[0])) == (
        "blocked",
        "`service.ready-port` (variants/four.toml:8) is not about the code service that"
        " `service.command` starts, on port 49999: use ready-url ="
        ' "http://localhost:49999/health"',
    )


class OtherService(Machine):
    """A machine in which something else answers on the interpreter's port."""

    def __init__(self) -> None: ...

    def run(
        self, words: Sequence[str], *, user: str | None = None, timeout: float | None = None
    ) -> tuple[int, str, str]:
        return 1, "", "Traceback …\nurllib.error.HTTPError: HTTP Error 404: Not Found\n"

    def write(self, path: str, content: bytes) -> None:
        raise AssertionError(path)

    def state(self) -> tuple[str, str]:
        return "healthy", ""

    def logs(self) -> str:
        return ""


def test_precheck_finds_another_service_on_the_port(tmp_path: Path) -> None:
    """What is ready on the interpreter's port and has no contexts fails the pre-check."""
    variant = with_service(tmp_path, "http://localhost:49999/health")
    with pytest.raises(PrecheckError) as caught:
        open_sandbox(OtherService(), variant)
    assert caught.value.message == (
        "the service of `leaf` is ready but is not a code interpreter: http://localhost:49999/contexts:"
        " urllib.error.HTTPError: HTTP Error 404: Not Found"
    )


class ThisMachine(OtherService):
    """A machine whose programs run here."""

    def run(
        self, words: Sequence[str], *, user: str | None = None, timeout: float | None = None
    ) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, *words[1:]], capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout, done.stderr

    def write(self, path: str, content: bytes) -> None:
        Path(path).write_bytes(content)


@pytest.fixture
def answering(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Execution]]:
    """What code gives whose execution the service answers with these events, and then `pause`s."""
    monkeypatch.setattr("builder.precheck.machine_sandbox._FOLDER", str(tmp_path))
    answer: list[bytes] = []
    pauses = threading.Event()

    class Service(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def do_POST(self) -> None:
            self.do_GET()
            self.wfile.write(b"".join(answer))
            self.wfile.flush()
            pauses.wait()

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        variant = with_service(tmp_path, f"http://127.0.0.1:{server.server_port}/health")

        def run(*events: dict[str, object], pause: bool = False) -> Execution:
            answer[:] = [json.dumps(event).encode() + b"\n" for event in events]
            if not pause:
                pauses.set()
            return open_sandbox(ThisMachine(), variant).run("1", timeout=2)

        yield run
        pauses.set()
        server.shutdown()


OUTPUT = {"type": "stdout", "text": "so far\n"}
END = {"type": "end_of_execution"}


def test_precheck_reads_answers_as_applications_do(answering: Callable[..., Execution]) -> None:
    """Code of a check gives output, results and errors in the pre-check as for applications."""
    result = {"type": "result", "text": "42", "is_main_result": True}
    error = {"type": "error", "name": "E", "value": "v", "traceback": "\x1b[31mred\x1b[0m"}
    execution = answering(OUTPUT, {"type": "keepalive"}, result, error, END)
    assert (execution.stdout, execution.error, execution.traceback) == ("so far\n", "E: v", "red")
    assert [each.text for each in execution.results] == ["42"]


def test_precheck_of_an_interpreter_that_dies(answering: Callable[..., Execution]) -> None:
    """A check that ends the service's interpreter is told in the pre-check as on E2B."""
    with pytest.raises(InterpreterDiedError, match="the interpreter died while it ran the code"):
        answering(OUTPUT, {"type": "unexpected_end_of_execution"})


def test_precheck_of_an_answer_that_ends_early(answering: Callable[..., Execution]) -> None:
    """An answer without its end is an error, and none at all is one that names the cause."""
    with pytest.raises(SandboxError) as caught:
        answering(OUTPUT)
    assert caught.value.message == (
        "the answer of the code service cannot be read: the code service closed the connection"
    )
    with pytest.raises(PrecheckError, match="the code service returned an empty stream"):
        answering()


@pytest.mark.slow
def test_precheck_of_code_that_runs_out_of_time(answering: Callable[..., Execution]) -> None:
    """Code of a check that does not end in time has what it has printed until then."""
    execution = answering(OUTPUT, pause=True)
    assert (execution.timed_out, execution.stdout, execution.error) == (True, "so far\n", None)
