"""How builds go on the server of the tests: as E2B's own builder carries them out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.asking import Ask, asking, built, requested
from tests.support.e2b_server import ModelledSteps, Server

INTERNAL = "An internal error occurred. Please try again or contact support with the build ID."


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        yield made
        assert made.problems == []


@pytest.fixture
def ask(server: Server) -> Ask:
    return asking(server)


def test_layers_of_the_second_build_come_from_the_cache(ask: Ask) -> None:
    """A step that was carried out before, on the same steps, is not carried out again."""
    start = {
        "fromImage": "ubuntu:22.04",
        "steps": [
            {"type": "ENV", "args": ["ENV_VAR", "Hello, World!"]},
            {"type": "run", "args": ["true"]},
        ],
    }
    heads = ["[base] FROM ubuntu:22.04 [", "[base] DEFAULT USER user [",
             "[builder 1/2] ENV ENV_VAR Hello, World! [", "[builder 2/2] RUN true ["]  # fmt: skip
    for prefix in ("", "CACHED "):
        lines = built(ask, "x", start=start)["lines"]
        begun = [line for line in lines if "[base]" in line or "/2] " in line]
        begun = [line for line in begun if "stdout" not in line]
        assert len(begun) == len(heads)
        for line, head in zip(begun, heads, strict=True):
            assert line.startswith(prefix + head)


def test_lines_of_the_start(ask: Ask) -> None:
    """The log names the commands that a template starts with, also those that it inherits."""
    commands = {"startCmd": "serve", "readyCmd": "curl localhost"}
    for name, source, expected in (
        ("plain", {"fromImage": "ubuntu:24.04"}, []),
        ("base", {"fromImage": "ubuntu:24.04", **commands}, ["serve", "curl localhost"]),
        ("derived", {"fromTemplate": "base"}, ["serve", "curl localhost"]),
        ("own", {"fromTemplate": "base", "startCmd": "exit 0"}, ["exit 0", "sleep 20"]),
    ):
        lines = built(ask, name, start={"steps": [], "force": True, **source})["lines"]
        messages = [line.partition(": ") for line in lines if ": " in line]
        assert [
            text for head, _, text in messages if head.startswith(("Running", "Wait"))
        ] == expected
        assert ("Template is ready" in lines) == bool(expected)
        if "fromTemplate" in source:
            assert any(line.startswith("CACHED [base] FROM TEMPLATE base [") for line in lines)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ({"fromTemplate": "missing"}, ("base", "template 'missing' not found")),
        (
            {"fromTemplate": "x:v9"},
            ("base", "tag 'v9' does not exist for template 'team/x'"),
        ),
        (
            {"fromTemplate": "a.b"},
            ("base", "invalid template reference: invalid template ID: a.b"),
        ),
        (
            {"fromImage": "a", "steps": [{"type": "EXPOSE"}]},
            ("1", "failed to get command for step EXPOSE: command type EXPOSE is not implemented"),
        ),
        (
            {"fromImage": "a", "steps": [{"type": "COPY", "args": ["a", "b"]}]},
            ("1", "COPY requires files hash to be set"),
        ),
    ],
)
def test_build_that_fails(ask: Ask, source: dict[str, Any], reason: tuple[str, str]) -> None:
    """What a build cannot be made from is found when it is carried out, and named in its status."""
    built(ask, "x")
    status = built(ask, "y", start={"steps": [], **source})["status"]
    assert status["status"] == "error"
    assert (status["reason"]["step"], status["reason"]["message"]) == reason


@pytest.mark.parametrize(
    ("image", "tail"),
    [
        (
            image,
            f"[provision] ERROR: base image distribution ID='{distribution}' is not supported.\n"
            "[provision] Sandboxes boot E2B's kernel, so the kABI, signed modules and SELinux these"
            " images are chosen for are unavailable.",
        )
        for image, distribution in (
            ("oraclelinux:9", "ol"),
            ("docker.io/library/amazonlinux", "amzn"),
            ("registry.example.com:5000/ubi9/ubi-minimal:latest", "rhel"),
            ("redhat/ubi8@sha256:0", "rhel"),
        )
    ]
    + [
        (
            image,
            f"[provision] ERROR: unsupported base image distribution: ID='{distribution}'.\n"
            "[provision] E2B template builds support: debian, ubuntu, fedora, centos, rocky,"
            " almalinux, arch, archarm, alpine, nixos.",
        )
        for image, distribution in (
            ("opensuse/leap:15", "opensuse-leap"),
            ("hello-world", "unknown (image has no /etc/os-release)"),
        )
    ],
)
def test_base_that_cannot_be_provisioned(ask: Ask, image: str, tail: str) -> None:
    """A base image of a distribution that E2B cannot provision fails as `base`, with what E2B prints
    about it."""
    reason = built(ask, "x", start={"fromImage": image})["status"]["reason"]
    assert (reason["step"], reason["message"]) == (
        "base",
        "error waiting for provisioning sandbox: exit status: 1; provisioning output tail:\n"
        "Starting provisioning script\nMaking configuration immutable\n"
        f"Detecting base image distribution\n{tail}",
    )


@pytest.mark.parametrize("image", ["fedora:42", "almalinux", "my/oraclelinux-like", "ubi"])
def test_base_that_can_be_provisioned(ask: Ask, image: str) -> None:
    """A base image is not refused for a name that merely resembles one of those."""
    assert built(ask, "x", start={"fromImage": image})["status"]["status"] == "ready"


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"type": "run"}, "RUN requires command argument"),
        ({"type": "RUN", "args": []}, "RUN requires command argument"),
        ({"type": "User"}, "USER requires a username argument"),
        ({"type": "WORKDIR"}, "WORKDIR requires a path argument"),
        ({"type": "ENV"}, "ENV does not support passing no arguments"),
        ({"type": "arg", "args": ["A"]}, "ARG requires both a key and value arguments"),
        ({"type": "ENV", "args": ["A", "1", "B"]}, "ENV requires both a key and value arguments"),
        (
            {"type": "ADD", "args": ["."], "filesHash": "a" * 64},
            "COPY requires a local path and a container path argument",
        ),
    ],
)
def test_step_that_lacks_arguments(ask: Ask, step: dict[str, Any], message: str) -> None:
    """A step that lacks arguments fails under its number, even with steps that only model times."""
    start = {"fromImage": "a", "steps": [{"type": "ENV", "args": ["A", "1"]}, step]}
    reason = built(ask, "x", start=start)["status"]["reason"]
    assert (reason["step"], reason["message"]) == ("2", message)


def test_fault_of_the_server_ends_the_build(capfd: pytest.CaptureFixture[str]) -> None:
    """A fault in a builder ends the build with E2B's words for that, and is noted, for a test to
    fail."""

    def broken(_step: dict[str, Any]) -> str:
        raise RuntimeError("broken")

    with Server(ModelledSteps(fails=broken)) as server:
        start = {"fromImage": "a", "steps": [{"type": "RUN", "args": ["true"]}]}
        made = built(asking(server), "x", start=start)
        assert (made["status"]["status"], made["lines"][-1]) == (
            "error",
            f"Build failed: {INTERNAL}",
        )
        assert made["status"]["reason"]["message"] == INTERNAL
        assert "step" not in made["status"]["reason"]
        assert server.problems == [f"build {made['buildID']}: RuntimeError('broken')"]
    assert "RuntimeError: broken" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("commands", "message", "last"),
    [
        (
            {"startCmd": "exit 97", "readyCmd": "false"},
            "start command failed: error running start command: exit status 97",
            "Template is ready",
        ),
        (
            {"startCmd": " false "},
            "start command failed: error running start command: exit status 1",
            "Template is ready",
        ),
        (
            {"startCmd": "serve", "readyCmd": "exit 3"},
            "ready command failed: ready command timed out after 10m0s",
            "Template is not ready: exit status 3",
        ),
        (
            {"readyCmd": "false"},
            "ready command failed: ready command timed out after 10m0s",
            "Template is not ready: exit status 1",
        ),
    ],
)
def test_start_that_fails(ask: Ask, commands: dict[str, str], message: str, last: str) -> None:
    """A start command that fails, or a ready command that never succeeds, fails the build as
    `finalize`."""
    made = built(ask, "x", start={"fromImage": "a", **commands})
    assert made["status"]["status"] == "error"
    reason = made["status"]["reason"]
    assert (reason["step"], reason["message"]) == ("finalize", message)
    assert made["lines"][-2:] == [last, f"Build failed: {message}"]


def test_source_that_is_empty(ask: Ask) -> None:
    """An empty `fromTemplate` counts as none."""
    assert (
        built(ask, "x", start={"fromImage": "a", "fromTemplate": ""})["status"]["status"] == "ready"
    )
    made = requested(ask, "x")
    path = f"templates/{made['templateID']}/builds/{made['buildID']}"
    answer = ask("POST", f"/v2/{path}", {"fromTemplate": ""})
    why = "failed to set template source: must specify either fromImage or fromTemplate"
    assert (answer.status_code, answer.json()["message"]) == (
        500,
        f"Error when starting template build: {why}",
    )
    status = ask("GET", f"/{path}/status").json()
    assert (status["status"], status["reason"]["message"]) == (
        "error",
        f"error when building env: {why}",
    )


def test_template_that_is_not_there_is_told_at_once(ask: Ask) -> None:
    """A build from a template that is not there has failed before its start is answered, and has no
    log."""
    made = requested(ask, "x")
    path = f"templates/{made['templateID']}/builds/{made['buildID']}"
    assert ask("POST", f"/v2/{path}", {"fromTemplate": "missing"}).status_code == 202
    status = ask("GET", f"/{path}/status").json()
    assert (status["status"], status["logEntries"]) == ("error", [])
    assert status["reason"] == {
        "step": "base",
        "message": "template 'missing' not found",
        "logEntries": [],
    }


def test_source_is_one(ask: Ask) -> None:
    """A build has an image or a template to start from, and not both."""
    for source, rule in (
        ({}, "must specify either fromImage or fromTemplate"),
        ({"fromImage": "a", "fromTemplate": "b"}, "cannot specify both fromImage and fromTemplate"),
    ):
        made = requested(ask, "x")
        path = f"/v2/templates/{made['templateID']}/builds/{made['buildID']}"
        answer = ask("POST", path, {"steps": [], **source})
        assert (answer.status_code, answer.json()["message"]) == (
            500,
            f"Error when starting template build: failed to set template source: {rule}",
        )
