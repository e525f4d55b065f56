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

pytestmark = pytest.mark.docker


class OneContainer(DockerSteps):
    """Every step in one container, since none of the cases needs a machine of its own."""

    def base(self, image: str) -> Any:
        return "ubuntu", {"PATH": "/usr/local/bin:/usr/bin:/bin"}, "user", None


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
    steps = OneContainer(ready_seconds=5.0)
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


def started(command: str) -> dict[str, str]:
    """A start command, with a ready command that takes longer."""
    return {"startCmd": command, "readyCmd": "sleep 2"}


def is_value(name: str, value: str) -> dict[str, Any]:
    quoted = value.replace("'", "'\\''")
    return run(f"[[ \"${name}\" == '{quoted}' ]] || exit 1")


IMAGE: dict[str, Any] = {"fromImage": "ubuntu:22.04"}
STATED = ': "${ENV_VAR:?ENV_VAR is not set or empty}"; echo "$ENV_VAR"'
CASES: dict[str, list[dict[str, Any]]] = {
    "TestTemplateBuildRUN": [IMAGE | {"steps": [run("echo 'Hello, World!'")]}],
    "TestTemplateBuildENV": [
        IMAGE | {"steps": [env("ENV_VAR", "Hello, World!"), run(STATED)]},
        IMAGE | {"steps": [env("ENV_VAR", "Hello, World!")], **started(STATED)},
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
        IMAGE | {"steps": [workdir("/app")], **started('[[ "$(pwd)" == "/app" ]] || exit 1')},
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
            **started("[[ ! -f /override_check.txt ]] || exit 97"),
        },
        {
            "fromTemplate": "t0",
            "steps": [
                env("DERIVED_VAR", "derived_value"),
                workdir("/app/derived"),
                run("echo 'override_expected' > /override_check.txt", "root"),
            ],
            **started("exit 0"),
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
            **started('[[ "$START_ENV-$(pwd)" == start_value-/start/workdir ]]'),
        },
    ],
    "TestTemplateBuildFromTemplateBaseCommandsInheritance": [
        IMAGE
        | {
            "steps": [env("BASE_VAR", "base_value"), workdir("/app/base")],
            **started('[[ "$BASE_VAR-$(pwd)" == base_value-/app/base ]]'),
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
    """The log has what the start and the ready command print, before the template is ready, also
    while the start command goes on."""
    start = IMAGE | {
        "steps": [env("TEST_VAR", "test_value")],
        "startCmd": "echo \"Starting with TEST_VAR=$TEST_VAR\"; echo 'Initialization complete'; sleep 8",
        "readyCmd": "echo 'Checking readiness...'; sleep 1; echo 'Ready check complete'",
    }
    lines = built(asking(server), "x", start=start)["lines"]
    begun = next(at for at, line in enumerate(lines) if line.startswith("Running start command: "))
    assert lines[begun + 1 : begun + 7] == [
        f"Waiting for template to be ready: {start['readyCmd']}",
        "[start] [stdout]: Starting with TEST_VAR=test_value",
        "[start] [stdout]: Initialization complete",
        "[ready] [stdout]: Checking readiness...",
        "[ready] [stdout]: Ready check complete",
        "Template is ready",
    ]


FAILING: dict[str, tuple[list[dict[str, Any]], str]] = {
    "variable that is not there": (
        [IMAGE | {"steps": [env("OTHER_VAR", "x")], **started(STATED)}],
        "start command failed: error running start command: exit status 127",
    ),
    "another folder": (
        [IMAGE | {"steps": [workdir("/app2")], **started('[[ "$(pwd)" == "/app" ]] || exit 3')}],
        "start command failed: error running start command: exit status 3",
    ),
    "command that is inherited": (
        [
            IMAGE | started("[[ ! -f /inherited_check.txt ]] || exit 97"),
            {"fromTemplate": "t0", "steps": [run("touch /inherited_check.txt", "root")]},
        ],
        "start command failed: error running start command: exit status 97",
    ),
    "end of the start before the ready command's": (
        [IMAGE | {"startCmd": "sleep 1; exit 4", "readyCmd": "sleep 4"}],
        "start command failed: error running start command: exit status 4",
    ),
    "end of the start between two ready commands": (
        [IMAGE | {"startCmd": "sleep 1; exit 5", "readyCmd": "false"}],
        "start command failed: error running start command: exit status 5",
    ),
    "never ready": (
        [IMAGE | {"startCmd": "sleep 8", "readyCmd": "exit 2"}],
        "ready command failed: ready command timed out after ",
    ),
    "ready command that hangs": (
        [IMAGE | {"readyCmd": "sleep 8"}],
        "ready command failed: ready command timed out after ",
    ),
}


@pytest.mark.parametrize("case", FAILING)
def test_start_that_fails(server: Server, case: str) -> None:
    """A build fails by a start command that fails before the template is ready, in the folder and
    with the variables of the template that has it, or by a template that is never ready."""
    starts, message = FAILING[case]
    ask = asking(server)
    for number, start in enumerate(starts):
        made = built(ask, f"t{number}", start={"force": True, **start})
        assert made["status"]["status"] == ("error" if start is starts[-1] else "ready")
    reason = made["status"]["reason"]
    assert reason["step"] == "finalize"
    assert reason["message"].startswith(message)


def test_ready_command_is_asked_until_it_succeeds(server: Server) -> None:
    """A ready command that fails is run again until it succeeds."""
    start = IMAGE | {"startCmd": "sleep 1; touch /tmp/asked; sleep 6", "readyCmd": "rm /tmp/asked"}
    made = built(asking(server), "x", start=start)
    assert made["status"]["status"] == "ready", made["status"]["reason"]
    assert "Template is not ready: exit status 1" in made["lines"]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (run("echo said; echo wrong >&2; exit 7"), "failed to run command '{}': exit status 7"),
        (workdir("/proc/absent"), "failed to create workdir: exit status 1"),
        ({"type": "USER", "args": ["-"]}, "failed to create user: exit status "),
    ],
)
def test_step_that_fails(server: Server, step: dict[str, Any], message: str) -> None:
    """A step that fails is told by the exit status of its command, whose output is in the log."""
    made = built(asking(server), "x", start=IMAGE | {"steps": [step]})
    reason = made["status"]["reason"]
    assert reason["step"] == "1"
    assert reason["message"].startswith(message.format(step["args"][0]))
    if step["type"] == "RUN":
        assert made["lines"][-3:-1] == [
            "[builder 1/1] [stdout]: said",
            "[builder 1/1] [stderr]: wrong",
        ]


def test_folder_that_is_relative(server: Server) -> None:
    """A relative folder is below the one before it, or below / if there is none."""
    steps = [
        workdir("app"),
        run('[[ "$(pwd)" == "/app" ]] || exit 1'),
        workdir("one/two"),
        run('[[ "$(pwd)" == "/app/one/two" ]] || exit 1'),
        workdir(".."),
        run('[[ "$(pwd)" == "/app/one" ]] || exit 1'),
    ]
    status = built(asking(server), "x", start=IMAGE | {"steps": steps})["status"]
    assert status["status"] == "ready", status


def test_kinds_of_steps_have_other_names(server: Server) -> None:
    """A kind may be in small letters, and `ARG` is the same as `ENV`."""
    steps = [
        {"type": "arg", "args": ["SMALL", "value"]},
        {"type": "Workdir", "args": ["/small"]},
        {"type": "run", "args": ['[[ "$SMALL-$(pwd)" == "value-/small" ]] || exit 1']},
    ]
    status = built(asking(server), "x", start=IMAGE | {"steps": steps})["status"]
    assert status["status"] == "ready", status


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "owner", "owned"),
    [
        ("COPY", (), "user:user"),
        ("ADD", ("", ""), "user:user"),
        ("COPY", ("root",), "root:root"),
        ("copy", ("root:user", "0600"), "root:user"),
    ],
)
def test_copied_file_is_where_it_was_copied_to(
    server: Server, kind: str, owner: tuple[str, ...], owned: str
) -> None:
    """An archive that was uploaded is unpacked where its step says, for the owner that it names."""
    target = f"/copied/{kind}{len(owner)}/"
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
    copied = {"type": kind, "args": [".", target, *owner], "filesHash": files_hash}
    is_owned = f'[[ "$(stat -c %U:%G {target}hello.txt)" == "{owned}" ]] || exit 1'
    steps = [copied, run(f"grep Hello {target}hello.txt", "root"), run(is_owned, "root")]
    status = built(ask, "x", start=IMAGE | {"steps": steps})["status"]
    assert status["status"] == "ready", status
    assert ask("GET", f"/templates/{template_id}/files/{files_hash}").json()["present"] is True


def test_account_that_is_not_there(server: Server) -> None:
    """A command of an account that the machine does not have fails by its name."""
    start = IMAGE | {"steps": [run("whoami", "root123")]}
    reason = built(asking(server), "x", start=start)["status"]["reason"]
    assert (reason["step"], reason["message"]) == (
        "1",
        "failed to run command 'whoami': command failed: unauthenticated: invalid username: 'root123'",
    )


@pytest.mark.slow
def test_sandboxes_have_the_files_of_the_build_that_a_tag_was_given_to_last() -> None:
    """A sandbox has the files that the newest build of its tag left."""
    start = {"fromImage": engine.base_image(), "force": True}
    write = "echo -n 'version-{}' > /home/user/version.txt"
    with Server(DockerSteps(network="none")) as server:
        ask = asking(server)
        made = [built(ask, "x", start=start | {"steps": [run(write.format(n))]}) for n in (1, 2)]
        for build in made:
            target = f"{build['templateID']}:{build['buildID']}"
            answer = ask("POST", "/templates/tags", {"target": target, "tags": ["stable"]})
            assert answer.status_code == 201, answer.text
        for tag in ("default", "stable"):
            opened = ask("POST", "/sandboxes", {"templateID": f"x:{tag}", "timeout": 60}).json()
            assert server.running[opened["sandboxID"]].build.id == made[1]["buildID"]
            for name, expected in (("version.txt", (200, "version-2")), ("absent", (404, None))):
                file = httpx.get(
                    f"{server.url}/files",
                    params={"path": f"/home/user/{name}", "username": "user"},
                    headers={"E2b-Sandbox-Id": opened["sandboxID"], "E2b-Sandbox-Port": "49983"},
                )
                assert (file.status_code, expected[1] and file.text) == expected
        assert server.problems == []
