"""The steps of E2B's own integration tests for templates, carried out on our double of its builder
(github.com/e2b-dev/infra, `tests/integration/internal/tests/api/templates/build_template_test.go`).
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from tests.support import engine
from tests.support.asking import asking, built
from tests.support.e2b_server import DockerSteps, Server
from tests.support.e2b_server.state import Build
from tests.support.e2b_server.steps import StepError

pytestmark = pytest.mark.docker


class OneContainer(DockerSteps):
    """Every step in one container, since none of the cases needs a machine of its own; the start
    command is run to its end."""

    def base(self, image: str) -> Any:
        return "ubuntu", {"PATH": "/usr/local/bin:/usr/bin:/bin"}, "user", None

    def finish(self, layer: Any, build: Build, tell: Any) -> Any:
        if build.start is None:
            return layer
        command, _, (image, env, user, workdir) = build.start
        with engine.running(image) as container:
            machine = engine.Machine(container, env)
            machine.user, machine.workdir_set = user, workdir
            try:
                output = machine.bash(command, user=user, workdir=machine.workdir, env=env)
            except AssertionError as error:
                raise StepError(f"start command failed: {error}") from error
        for line in output.splitlines():
            tell(f"[stdout]: {line}")
        return layer


@pytest.fixture(scope="module")
def container() -> Iterator[Any]:
    """A container whose login shells keep the PATH that they are given, as those of Ubuntu do."""
    with engine.running(engine.base_image()) as made:
        made.exec_run(["truncate", "--size=0", "/etc/profile"])
        yield made


@pytest.fixture
def server(container: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    shared = SimpleNamespace(
        exec_run=container.exec_run,
        put_archive=container.put_archive,
        commit=lambda: SimpleNamespace(id="ubuntu"),
    )
    monkeypatch.setattr(engine, "running", lambda *_, **__: contextlib.nullcontext(shared))
    steps = OneContainer()
    monkeypatch.setattr(steps, "remove", lambda: None)
    with Server(steps) as made:
        yield made
        assert made.problems == []


def env(*pairs: str) -> dict[str, Any]:
    return {"type": "ENV", "args": pairs}


def run(command: str, *user: str) -> dict[str, Any]:
    return {"type": "RUN", "args": [command, *user]}


def workdir(path: str) -> dict[str, Any]:
    return {"type": "WORKDIR", "args": [path]}


def is_value(name: str, value: str) -> dict[str, Any]:
    quoted = value.replace("'", "'\\''")
    return run(f"[[ \"${name}\" == '{quoted}' ]] || exit 1")


IMAGE: dict[str, Any] = {"fromImage": "ubuntu:22.04"}
STATED = ': "${ENV_VAR:?ENV_VAR is not set or empty}"; echo "$ENV_VAR"'
CASES: dict[str, list[dict[str, Any]]] = {
    "TestTemplateBuildRUN": [IMAGE | {"steps": [run("echo 'Hello, World!'")]}],
    "TestTemplateBuildENV": [
        IMAGE | {"steps": [env("ENV_VAR", "Hello, World!"), run(STATED)]},
        IMAGE | {"steps": [env("ENV_VAR", "Hello, World!")], "startCmd": STATED},
        IMAGE
        | {
            "steps": [
                env("PATH", "${PATH}:/my/path"),
                run('[[ "$PATH" == *:/my/path* ]] || exit 1'),
                env("MULTILINE", "line1\nline2\nline3"),
                run('[[ $(echo "$MULTILINE" | wc -l) -eq 3 ]] || exit 1'),
                *(
                    step
                    for number, value in enumerate(
                        (
                            "-----BEGIN DATA-----",
                            'say "hello"',
                            "it's working",
                            r"path\to\file",
                            "`echo pwned`",
                            "$(echo pwned)",
                        )
                    )
                    for step in (env(f"VALUE{number}", value), is_value(f"VALUE{number}", value))
                ),
            ]
        },
    ],
    "TestTemplateBuildWORKDIR": [
        IMAGE | {"steps": [workdir("/app"), run('[[ "$(pwd)" == "/app" ]] || exit 1')]},
        IMAGE | {"steps": [workdir("/app")], "startCmd": '[[ "$(pwd)" == "/app" ]] || exit 1'},
    ],
    "TestTemplateBuildFromTemplate": [
        IMAGE | {"steps": [env("BASE_VAR", "base_value"), workdir("/app")]},
        {
            "fromTemplate": "t0",
            "steps": [
                env("DERIVED_VAR", "derived_value"),
                run('[[ "$BASE_VAR-$(pwd)-$DERIVED_VAR" == base_value-/app-derived_value ]]'),
            ],
        },
    ],
    "TestTemplateBuildFromTemplateCommandOverride": [
        IMAGE
        | {
            "steps": [env("BASE_VAR", "base_value"), workdir("/app/base")],
            "startCmd": "[[ ! -f /override_check.txt ]] || exit 97",
            "readyCmd": "sleep 5",
        },
        {
            "fromTemplate": "t0",
            "steps": [
                env("DERIVED_VAR", "derived_value"),
                workdir("/app/derived"),
                run("echo 'override_expected' > /override_check.txt", "root"),
            ],
            "startCmd": "exit 0",
        },
    ],
    "TestTemplateBuildFromTemplateInheritance": [
        IMAGE
        | {
            "steps": [
                env("BASE_ENV", "inherited_value"),
                env("OVERRIDE_VAR", "base_value"),
                workdir("/base/workdir"),
            ]
        },
        {
            "fromTemplate": "t0",
            "steps": [
                env("OVERRIDE_VAR", "derived_value"),
                run(
                    '[[ "$BASE_ENV-$OVERRIDE_VAR-$(pwd)"'
                    " == inherited_value-derived_value-/base/workdir ]]"
                ),
            ],
        },
    ],
    "TestTemplateBuildFromTemplateStartCommand": [
        IMAGE | {"steps": [env("START_ENV", "start_value"), workdir("/start/workdir")]},
        {
            "fromTemplate": "t0",
            "startCmd": '[[ "$START_ENV-$(pwd)" == start_value-/start/workdir ]]',
        },
    ],
    "TestTemplateBuildFromTemplateBaseCommandsInheritance": [
        IMAGE
        | {
            "steps": [env("BASE_VAR", "base_value"), workdir("/app/base")],
            "startCmd": '[[ "$BASE_VAR-$(pwd)" == base_value-/app/base ]]',
        },
        {"fromTemplate": "t0", "steps": [env("BASE_VAR", "other"), workdir("/app/derived")]},
    ],
    "TestTemplateBuildFromTemplateLayered": [
        IMAGE | {"steps": [env("LEVEL", "base"), env("BASE_VAR", "base_value")]},
        {
            "fromTemplate": "t0",
            "steps": [env("LEVEL", "intermediate"), env("INTERMEDIATE_VAR", "intermediate_value")],
        },
        {
            "fromTemplate": "t1",
            "steps": [
                env("LEVEL", "final", "FINAL_VAR", "final_value"),
                run(
                    '[[ "$LEVEL-$BASE_VAR-$INTERMEDIATE_VAR-$FINAL_VAR"'
                    " == final-base_value-intermediate_value-final_value ]]"
                ),
            ],
        },
    ],
}


@pytest.mark.parametrize("case", CASES)
def test_steps_do_what_they_do_on_e2b(server: Server, case: str) -> None:
    """Commands, variables, folders and what a template inherits are as E2B's own tests want them."""
    for number, start in enumerate(CASES[case]):
        made = built(asking(server), f"t{number}", start={"force": True, **start})
        assert made["status"]["status"] == "ready", made["status"]["reason"]


def test_output_of_the_start_is_in_the_log(server: Server) -> None:
    """The log has what the start command prints, between the lines that say what is run."""
    start = IMAGE | {
        "steps": [env("TEST_VAR", "test_value")],
        "startCmd": "echo \"Starting with TEST_VAR=$TEST_VAR\"; echo 'Initialization complete'",
        "readyCmd": "echo 'Checking readiness...'; sleep 1; echo 'Ready check complete'",
    }
    lines = built(asking(server), "x", start=start)["lines"]
    begun = next(at for at, line in enumerate(lines) if line.startswith("Running start command: "))
    assert lines[begun + 1 : begun + 5] == [
        "[start] [stdout]: Starting with TEST_VAR=test_value",
        "[start] [stdout]: Initialization complete",
        f"Waiting for template to be ready: {start['readyCmd']}",
        "Template is ready",
    ]


def test_copied_file_is_where_it_was_copied_to(server: Server) -> None:
    """An archive that was uploaded is unpacked where its step says."""
    ask = asking(server)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        member = tarfile.TarInfo("hello.txt")
        member.size, member.mode = 5, 0o644
        tar.addfile(member, io.BytesIO(b"Hello"))
    archive = gzip.compress(packed.getvalue())
    files_hash = hashlib.sha256(archive).hexdigest()
    template_id = built(ask, "x", start=IMAGE)["templateID"]
    place = ask("GET", f"/templates/{template_id}/files/{files_hash}").json()
    assert httpx.put(place["url"], content=archive).status_code == 200
    copied = {"type": "COPY", "args": [".", "/app/", "", ""], "filesHash": files_hash}
    start = IMAGE | {"steps": [copied, run("grep Hello /app/hello.txt")]}
    status = built(ask, "x", start=start)["status"]
    assert status["status"] == "ready", status
    assert ask("GET", f"/templates/{template_id}/files/{files_hash}").json() == {"present": True}


def test_account_that_is_not_there(server: Server) -> None:
    """A command of an account that the machine does not have fails by its name."""
    start = IMAGE | {"steps": [run("whoami", "root123")]}
    reason = built(asking(server), "x", start=start)["status"]["reason"]
    assert (reason["step"], reason["message"]) == (
        "1",
        "failed to run command 'whoami': command failed: unauthenticated: invalid username: 'root123'",
    )
