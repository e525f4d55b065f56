"""The checks that a spec writes: what it may say, and how each kind passes and fails."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.errors import SpecError
from builder.plan import inputs_of
from builder.record.fields import contents_of, recalled
from builder.registry import Record
from builder.sandbox.commands import CommandResult
from builder.sandbox.execution import Execution
from builder.spec import Check
from builder.spec.variant import HttpRequest
from builder.verify.spec_checks import succeed
from tests.conftest import BASE
from tests.support.samples import load, problems, rendered_of

LEAF = "schema = 1\nname = 'leaf'\nextends = '_base'\n"
KINDS = """
[[verify]]
name = "code"
code = "print(1)"
[[verify]]
name = "command"
command = "app --version | head -n 1"
exit-code = 3
stdout = "1.0"
timeout = 5
[[verify]]
name = "page"
http = {url = "http://localhost:8501/", contains = "Streamlit"}
"""


def test_each_kind_of_check(tmp_path: Path) -> None:
    """A check runs code, a command or a request; each is in template.toml, in the digest and among
    the inputs, and comes back from the record."""
    variant = load(tmp_path, _base=BASE, leaf=LEAF + KINDS)["leaf"]
    page = HttpRequest(url="http://localhost:8501/", status=200, contains="Streamlit")
    assert variant.checks == (
        Check(name="code", code="print(1)", stdout=None, timeout=60),
        Check(
            name="command",
            command="app --version | head -n 1",
            exit_code=3,
            stdout="1.0",
            timeout=5,
        ),
        Check(name="page", http=page, stdout=None, timeout=60),
    )
    rendered = rendered_of(variant)
    document = tomllib.loads(rendered.content("template.toml").decode())
    assert document["stages"][1]["verify"] == [
        {"name": "code", "code": "print(1)", "timeout": 60},
        {
            "name": "command",
            "command": "app --version | head -n 1",
            "exit-code": 3,
            "stdout": "1.0",
            "timeout": 5,
        },
        {
            "name": "page",
            "http": {"url": "http://localhost:8501/", "status": 200, "contains": "Streamlit"},
            "timeout": 60,
        },
    ]
    changed = LEAF + KINDS.replace("exit-code = 3", "exit-code = 4").replace("8501", "8502")
    other = rendered_of(load(tmp_path, _base=BASE, leaf=changed)["leaf"])
    before, after = inputs_of(rendered)["spec"], inputs_of(other)["spec"]
    assert other.digest != rendered.digest
    assert {key for key in after if before[key] != after[key]} == {
        "leaf: verify 'command'",
        "leaf: verify 'page'",
    }
    fields = contents_of(rendered).to_json()
    assert "command" not in fields["checks"][0]
    promised = recalled(Record(name="leaf", target="e2b", ref="leaf:1", fields=fields))
    assert promised.variant.checks == variant.checks
    assert (promised.runs_code, fields["runs_code"]) == (False, False)


def test_mistakes_in_checks(tmp_path: Path) -> None:
    """A check without a kind, with two, or with a key of another kind is an error with its line."""
    folder = tmp_path / "variants"
    folder.mkdir()
    (folder / "leaf.toml").write_text(
        "schema = 1\nname = 'leaf'\n"
        "[[verify]]\nname = 'none'\n"
        "[[verify]]\nname = 'two'\ncode = ''\ncommand = 'x'\n"
        "[[verify]]\nname = 'code'\ncode = ''\nexit-code = 0\n"
        "[[verify]]\nname = 'page'\nstdout = ''\nhttp = {url = 'http://example.com/'}\n"
    )
    assert problems(folder) == [
        "variants/leaf.toml:3:3: `verify[0]`: has neither `code` nor `command` nor `http` (write the"
        " code, the command or the request that must succeed)",
        "variants/leaf.toml:8:1: `verify[1].command`: excludes `code`, `command` and `http`, of which"
        " `code` is set (write two checks)",
        "variants/leaf.toml:12:1: `verify[2].exit-code`: has no effect without `command`",
        "variants/leaf.toml:15:1: `verify[3].stdout`: has no effect with `http` (write `contains` in"
        " `http`)",
        "variants/leaf.toml:16:9: `verify[3].http.url`: 'http://example.com/' is not a service of the"
        " sandbox (write a URL on localhost; a `command` with curl, say, can reach other hosts)",
    ]
    (folder / "leaf.toml").write_text(
        "schema = 1\nname = 'leaf'\n[[verify]]\nname = 'a'\ncommand = ''\nexit-code = 256\n"
        "[[verify]]\nname = 'b'\nhttp = {url = 'localhost', status = 1, contain = 'x'}\n"
    )
    assert problems(folder) == [
        "variants/leaf.toml:5:1: `verify[0].command`: is empty",
        "variants/leaf.toml:6:1: `verify[0].exit-code`: 256 must be at most 255",
        "variants/leaf.toml:9:9: `verify[1].http.url`: 'localhost' is not an http or https URL",
        "variants/leaf.toml:9:28: `verify[1].http.status`: 1 must be at least 100",
        "variants/leaf.toml:9:40: `verify[1].http.contain`: unknown key (did you mean `contains`?)",
    ]


def test_code_that_is_not_python(tmp_path: Path) -> None:
    """A syntax error in the code of a check is found before a build, and so is an empty command;
    lines of IPython and the syntax of a later Python are left to the sandbox."""
    folder = tmp_path / "variants"
    folder.mkdir()
    head = "schema = 1\nname = 'leaf'\n"
    body = (
        "[[verify]]\nname = 'a'\ncode = '1+'\n[[verify]]\nname = 'b'\ncode = '%time 1+'\n"
        "[[verify]]\nname = 'c'\ncode = 'files = !ls'\n"
        "[[verify]]\nname = 'd'\ncode = 'await f()'\n"
    )
    (folder / "leaf.toml").write_text(head + body)
    here = ".".join(map(str, sys.version_info[:2]))
    assert problems(folder) == [
        "variants/leaf.toml:5:1: `verify[0].code`: is not Python code: invalid syntax (its line 1)"
        f" (set `base.python` if it is the syntax of a Python later than {here})"
    ]
    (folder / "leaf.toml").write_text(head + "[base]\npython = '>=3.29'\n" + body)
    load(tmp_path)
    (folder / "leaf.toml").write_text(head + "[[verify]]\nname = 'a'\ncommand = ' '\n")
    assert problems(folder) == ["variants/leaf.toml:5:1: `verify[0].command`: is empty"]


texts = st.text(
    st.characters(blacklist_categories=["Cs"]) | st.sampled_from("\"'\\$`#<\n{}% "), max_size=30
)


@pytest.mark.slow
@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(command=texts, contains=texts)
def test_no_check_alters_an_instruction(
    command: str, contains: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever a command or an expected text holds, it is refused, or it is in template.toml as it
    was written, and the Dockerfile is that of a spec without checks."""
    quoted = [json.dumps(text).replace("\x7f", "\\u007f") for text in (command, contains)]
    checks = (
        f"[[verify]]\nname = 'a'\ncommand = {quoted[0]}\n"
        f"[[verify]]\nname = 'b'\nhttp = {{url = 'http://localhost/', contains = {quoted[1]}}}\n"
    )
    folder = tmp_path_factory.mktemp("any")
    try:
        rendered = rendered_of(load(folder, _base=BASE, leaf=LEAF + checks)["leaf"])
    except SpecError:
        return
    document = tomllib.loads(rendered.content("template.toml").decode())
    first, second = document["stages"][1]["verify"]
    assert (first["command"], second["http"]["contains"]) == (command, contains)
    plain = rendered_of(load(folder, leaf=LEAF)["leaf"])
    assert rendered.content("Dockerfile") == plain.content("Dockerfile")


class Here:
    """A sandbox that runs commands on this machine."""

    timings: Mapping[str, float] = {}

    def run(self, code: str, *, timeout: float) -> Execution:
        raise AssertionError

    def command(self, text: str, *, timeout: float) -> CommandResult:
        start = time.monotonic()
        search = f"{os.path.dirname(sys.executable)}:/usr/bin:/bin"
        try:
            done = subprocess.run(
                ["bash", "-c", text],
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
                env={"PATH": search, "http_proxy": "http://localhost:1"},
            )
        except subprocess.TimeoutExpired:
            return CommandResult(exit_code=137, timed_out=True)
        return CommandResult(
            exit_code=done.returncode,
            stdout=done.stdout,
            stderr=done.stderr,
            seconds=time.monotonic() - start,
        )

    def close(self) -> None: ...


def outcome(**values: Any) -> str | None:
    """Run a check here; return why it failed."""
    result = succeed(Here(), Check(**{"name": "x", "stdout": None, "timeout": 20} | values))
    return result if isinstance(result, str) else None


@pytest.mark.parametrize(
    ("check", "reason"),
    [
        ({"command": "exit 3", "exit_code": 3}, None),
        ({"command": "echo a; echo b >&2", "exit_code": 0, "stdout": "a"}, None),
        ({"command": "printf 'a \\n\\n'", "exit_code": 0, "stdout": "a"}, None),
        (
            {"command": "echo out; echo no >&2; exit 2", "exit_code": 0},
            "expected exit code 0, got 2\n    no",
        ),
        ({"command": "true", "exit_code": 1}, "expected exit code 1, got 0"),
        ({"command": "false; echo so", "exit_code": 1}, "expected exit code 1, got 0\n    so"),
        ({"command": "echo b", "exit_code": 0, "stdout": "a"}, "expected 'a', got 'b'"),
        (
            {"command": "sleep 30", "exit_code": 0, "timeout": 1},
            "it did not finish within 1 second",
        ),
    ],
)
def test_commands(check: dict[str, Any], reason: str | None) -> None:
    """A command passes if it ends in time, with its exit code and output; else the failure says what
    was expected, and what came."""
    assert outcome(**check) == reason


@pytest.fixture
def service() -> Iterator[str]:
    """The address of a service on this machine."""

    class Service(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status = {"/": 200, "/?a=1": 201, "/moved": 302}.get(self.path, 404)
            self.send_response(status)
            self.send_header("Location", "/")
            self.end_headers()
            self.wfile.write(f"<h1>größer</h1>{self.path}{'x' * 300}".encode())

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_port}"
        server.shutdown()


def test_requests(service: str) -> None:
    """A request passes with its status and text, asks the sandbox itself whatever the proxy is, and
    follows no redirect."""

    def asked(path: str, status: int = 200, contains: str | None = None) -> str | None:
        request = HttpRequest(url=service + path, status=status, contains=contains)
        return outcome(http=request)

    assert asked("", contains="größer") is None
    assert asked("/?a=1", 201) is None
    assert asked("/moved", 302) is None
    begin = "<h1>größer</h1>/nope" + "x" * 180
    assert asked("/nope") == f"expected status 200 of {service}/nope, got 404: {begin!r}"
    begin = "<h1>größer</h1>/" + "x" * 184
    assert asked("/", contains="it's \"$x`") == (
        f"expected 'it\\'s \"$x`' in the answer of {service}/, which begins with {begin!r}"
    )


def test_service_that_does_not_answer() -> None:
    """A port at which nothing listens is told as such."""
    request = HttpRequest(url="http://127.0.0.1:1/", status=200, contains=None)
    assert outcome(http=request) == (
        "http://127.0.0.1:1/ does not answer: [Errno 111] Connection refused"
    )
