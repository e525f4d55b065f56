"""The server of the tests, asked by E2B's own SDK: the rules that the other tests lean on."""

from __future__ import annotations

import inspect
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import e2b
import httpx
import pytest
from e2b.api.client import models
from e2b_code_interpreter import Sandbox

from tests.support.e2b_server import Fault, ModelledSteps, Server, description, zygote
from tests.support.e2b_server.state import ApiError, Team
from tests.support.e2b_server.zygote import ForkedKernel
from tests.support.runs import until


def template(*commands: str) -> Any:
    made = e2b.Template(file_context_path=".").from_image("python:3.13")
    for command in commands:
        made = made.run_cmd(command)
    return made.set_start_cmd("serve", "true")


def build(name: str, *commands: str, **options: Any) -> tuple[e2b.BuildInfo, list[str]]:
    lines: list[str] = []
    info = e2b.Template.build(
        template(*commands), name, on_build_logs=lambda line: lines.append(line.message), **options
    )
    return info, lines


@pytest.mark.slow
def test_kernels_may_be_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that gets no processor for seconds while it starts is waited for."""

    class SlowKernel(ForkedKernel):
        def __init__(self, pid: int, *arguments: Any) -> None:
            super().__init__(pid, *arguments)
            os.kill(pid, signal.SIGSTOP)
            threading.Timer(4.0, os.kill, (pid, signal.SIGCONT)).start()

    monkeypatch.setattr(zygote, "ForkedKernel", SlowKernel)
    forking = zygote.Zygote()
    try:
        kernel, client = forking.start(cwd="/")
        client.stop_channels()
        kernel.shutdown_kernel(now=True)
    finally:
        forking.close()


def test_tag_that_is_given_leaves_default_alone(cloud: Server) -> None:
    """Without a tag a build is the default; with one, a bare name stays what it was, or is not
    there at all; a build's own ID always leads to it."""
    info, _ = build("x", tags=["v1"])
    for ref in ("x", info.template_id, "x:v2"):
        with pytest.raises(e2b.SandboxException, match=r"404: tag .* does not exist"):
            Sandbox.create(ref)
    for ref in ("x:v1", f"{info.template_id}:v1", f"x:{info.build_id}", "team/x:v1"):
        Sandbox.create(ref).kill()
    plain, _ = build("x", "true")
    sandbox = Sandbox.create("x")
    assert next(iter(cloud.running.values())).build.id == plain.build_id
    sandbox.kill()


def test_tag_is_on_the_newest_build_that_is_ready(lead: Callable[[Server], Server]) -> None:
    """A tag that was given to a build which failed stays on the one before it."""
    with Server(ModelledSteps(fails=lambda s: "no" if "false" in s["args"] else None)) as server:
        lead(server)
        good, _ = build("x", "true")
        with pytest.raises(e2b.BuildException, match="no"):
            build("x", "false")
        assert server.tags("x")["default"] == good.build_id
        (listed,) = e2b.Template.get_tags("x")
        assert listed.build_id != good.build_id  # the list shows the newest, ready or not
        failed = server.builds("x")[1]
        why = "failed to run command 'false': no"
        assert (failed.status, failed.message, failed.step) == ("error", why, "1")


def test_cache_is_chained_and_of_the_team(lead: Callable[[Server], Server]) -> None:
    """A step comes from the cache when it and all before it are the same, within a team alone."""
    teams = [Team(key="e2b_" + "1" * 40), Team(key="e2b_" + "2" * 40, slug="other")]
    with Server(teams=teams) as server:
        lead(server)

        def cached(*commands: str, **options: Any) -> list[bool]:
            name = f"x{len(server.state.templates)}"
            lines = build(name, *commands, **options)[1]
            return [
                line.startswith("CACHED") for line in lines if "[builder" in line and "RUN" in line
            ]

        heads = cached("a", "b")
        assert [one for one in heads if one] == []
        assert cached("a", "b").count(True) == 2
        assert cached("a", "c").count(True) == 1
        assert cached("c", "b").count(True) == 0
        assert cached("a", "b", skip_cache=True).count(True) == 0
        assert cached("a", "b", api_key=teams[1].key).count(True) == 0


def test_later_build_of_a_tag_cancels_the_earlier(lead: Callable[[Server], Server]) -> None:
    """Of two builds of one template with one tag, the one that is begun later goes on."""
    with Server(ModelledSteps(seconds=lambda _: 0.5)) as server:
        lead(server)
        found: list[str] = []

        def first() -> None:
            try:
                build("x", "a", tags=["v1"])
            except e2b.BuildException as error:
                found.append(str(error))

        thread = threading.Thread(target=first)
        thread.start()
        until(lambda: server.builds() and server.builds()[0].running)
        info, _ = build("x", "b", tags=["v1"])
        thread.join()
        assert found == ["build was cancelled"]
        assert server.tags("x") == {"v1": info.build_id}


def test_waiting_build_is_superseded_behind_the_cache(cloud: Server) -> None:
    """Of a build that waits, a later request makes a failed one, which its status does not tell
    while that is in the cache; a start that is refused cancels the later one all the same."""

    def call(method: str, path: str, **body: Any) -> httpx.Response:
        headers = {"X-API-Key": cloud.key}
        return httpx.request(method, cloud.url + path, json=body or None, headers=headers)

    def requested() -> tuple[str, str]:
        found = call("POST", "/v3/templates", name="x", tags=["v1"]).json()
        return found["templateID"], found["buildID"]

    def status(build: tuple[str, str]) -> str:
        found: str = call("GET", "/templates/{}/builds/{}/status".format(*build)).json()["status"]
        return found

    def started(build: tuple[str, str]) -> httpx.Response:
        steps = [{"type": "RUN", "args": ["slow"]}]
        return call("POST", "/v2/templates/{}/builds/{}".format(*build), fromImage="i", steps=steps)

    cloud.steps = ModelledSteps(seconds=lambda _: 0.5)
    early, later, newest = requested(), requested(), requested()
    assert status(later) == "error"
    before = [build.status for build in cloud.builds("x")]
    assert before == ["error", "error", "waiting"]
    assert started(newest).status_code == 202
    refused = started(early)
    assert (refused.status_code, refused.json()["message"]) == (
        400,
        "build is not in waiting state",
    )
    assert status(newest) == "building"
    until(lambda: status(newest) == "error")
    assert cloud.builds("x")[-1].message == "build was cancelled"
    waiting = requested()
    assert status(waiting) == "waiting"
    requested()
    assert cloud.builds("x")[-2].status == "error"
    assert status(waiting) == "waiting"


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("a.b", {}, "400: Invalid name: invalid template ID: a.b"),
        ("elsewhere/x", {}, "400: namespace 'elsewhere' must match your team 'team'"),
        ("x", {"tags": ["a b"]}, "400: Invalid tag: invalid tag 'a b': invalid tag: a b"),
        (
            "x",
            {"tags": ["0d8b4b2e-6a51-4b8e-9d36-0c8a3a5b0c11"]},
            "400: Invalid tag: invalid tag '0d8b.*': tag cannot be a UUID",
        ),
        ("x", {"cpu_count": 3}, "400: CPU count must be 1 or an even number"),
        ("x", {"cpu_count": 34}, "400: CPU count must be at most 32"),
        ("x", {"cpu_count": 10}, "400: CPU count can't be higher than 8 .if you need"),
        ("x", {"memory_mb": 129}, "400: Memory must be divisible by 2"),
        ("x", {"memory_mb": 8194}, "400: Memory can't be higher than 8192 MiB .if you need"),
    ],
)
def test_request_that_is_refused(
    cloud: Server, name: str, options: dict[str, Any], told: str
) -> None:
    """What E2B's rules forbid is refused with 400."""
    with pytest.raises(e2b.BuildException, match=told):
        build(name, **options)


def test_name_that_is_an_id_is_refused(cloud: Server) -> None:
    """A name that is the ID of a template is a conflict."""
    info, _ = build("x")
    with pytest.raises(e2b.BuildException, match=r"409: Alias .* is already used"):
        build(info.template_id)


def test_other_teams_see_nothing(lead: Callable[[Server], Server]) -> None:
    """A key that is missing or wrong is 401; another team's template is 404 by its name and 403 by
    its ID, and no build of it can be run, tagged or deleted."""
    teams = [Team(key="e2b_" + "1" * 40), Team(key="e2b_" + "2" * 40, slug="other")]
    with Server(teams=teams) as server:
        lead(server)
        info, _ = build("x", tags=["v1"])
        key = {"api_key": teams[1].key}
        for name, code in (("x", 404), (info.template_id, 403)):
            with pytest.raises(e2b.TemplateException, match=f"{code}: "):
                e2b.Template.get_tags(name, **key)  # type: ignore[arg-type]
            with pytest.raises(e2b.TemplateException, match=f"{code}: "):
                e2b.Template.assign_tags(f"{name}:v1", "v2", **key)  # type: ignore[arg-type]
            with pytest.raises(e2b.TemplateException, match=f"{code}: "):
                e2b.Template.remove_tags(name, "v1", **key)  # type: ignore[arg-type]
            with pytest.raises(e2b.SandboxException, match=r"404: template '.*' not found"):
                Sandbox.create(f"{name}:{info.build_id}", **key)
        with pytest.raises(e2b.AuthenticationException, match="401"):
            e2b.Template.get_tags("x", api_key="e2b_wrong")
        assert httpx.get(f"{server.url}/templates").status_code == 401


def test_files_are_uploaded_once(cloud: Server, tmp_path: Path) -> None:
    """What was uploaded for one build is there for the next; a step without its files fails."""
    (tmp_path / "thing").write_text("x")
    made = e2b.Template(file_context_path=str(tmp_path)).from_image("a").copy("thing", "/thing")
    for name in ("x", "y"):
        e2b.Template.build(made, name)
    assert sum(request.startswith("PUT ") for request in cloud.front.requests) == 1
    cloud.state.files.clear()
    cloud.state.layers.clear()
    cloud.front.faults.append(Fault(r"PUT /upload/.*", "status", code=200))  # as if it was kept
    with pytest.raises(e2b.BuildException, match="failed to open files object from storage"):
        e2b.Template.build(made, "z")


def test_log_comes_in_pages(lead: Callable[[Server], Server]) -> None:
    """The state of a build brings a hundred lines of its log at most, from the offset on."""
    with Server(ModelledSteps(lines=230)) as server:
        lead(server)
        info, lines = build("x", "a")
        pages = [
            len(e2b.Template.get_build_status(info, logs_offset=offset).log_entries)
            for offset in (0, 100, 200, 300)
        ]
        (made,) = server.builds()
        assert pages == [100, 100, len(made.log) - 200, 0]
        assert [line for line in lines if "stdout" in line] == [
            f"[builder 1/1] [stdout]: line {number} of RUN" for number in range(230)
        ]


def test_build_is_started_once(cloud: Server) -> None:
    """A build that is not waiting any more cannot be started again."""
    info, _ = build("x")
    answer = httpx.post(
        f"{cloud.url}/v2/templates/{info.template_id}/builds/{info.build_id}",
        json={"fromImage": "a", "steps": [], "force": False},
        headers={"X-API-Key": cloud.key},
    )
    assert (answer.status_code, answer.json()["message"]) == (
        400,
        "build is not in waiting state",
    )


def test_sandbox_ends_by_its_own_timeout(cloud: Server) -> None:
    """A sandbox lives as long as it was asked for, or told since, and no longer."""
    build("x")
    sandbox, other = Sandbox.create("x", timeout=1), Sandbox.create("x", timeout=1)
    other.set_timeout(60)
    time.sleep(1.2)
    assert not sandbox.is_running()
    assert other.run_code("print(1)").logs.stdout == ["1\n"]
    other.kill()


def test_template_in_use_is_not_deleted(cloud: Server) -> None:
    """A template whose sandboxes run cannot be deleted."""
    info, _ = build("x")
    sandbox = Sandbox.create("x")
    headers = {"X-API-Key": cloud.key}
    address = f"{cloud.url}/templates/{info.template_id}"
    assert httpx.delete(address, headers=headers).status_code == 400
    sandbox.kill()
    assert httpx.delete(address, headers=headers).status_code == 204


def test_request_that_does_not_fit_is_refused(cloud: Server) -> None:
    """A request with a field, a type or a parameter that E2B's description does not have is refused."""
    for method, path, sent, wrong in (
        ("POST", "/v3/templates", {"name": "x", "memory": 5}, "'memory' was unexpected"),
        ("POST", "/v3/templates", {"name": 5}, "\"/name\": 5 is not of type 'string'"),
        ("POST", "/v3/templates", {"name": "x" * 129}, "is too long"),
        ("POST", "/v3/templates", {"memoryMB": 64}, "64 is less than the minimum of 128"),
        ("GET", "/v2/templates?limit=101", None, "101 is greater than the maximum of 100"),
        ("GET", "/v2/templates?page=1", None, "'page' was unexpected"),
    ):
        headers = {"X-API-Key": cloud.key}
        answer = httpx.request(method, cloud.url + path, json=sent, headers=headers)
        assert answer.status_code == 400
        assert answer.json()["message"].startswith("validation error: "), answer.text
        assert wrong in answer.json()["message"]


def test_answer_that_does_not_fit_is_a_problem(lead: Callable[[Server], Server]) -> None:
    """An answer that E2B's description does not have is noted, for a test to fail."""
    with Server() as server:
        lead(server)
        build("x")
        server.builds()[0].memory_mb = "much"  # type: ignore[assignment]
        httpx.get(f"{server.url}/v2/templates", headers={"X-API-Key": server.key})
        assert server.problems == [
            "GET /v2/templates: Error at \"/0/memoryMB\": 'much' is not of type 'integer'"
        ]


def test_status_that_is_not_described_is_a_problem(
    cloud: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer with a status that E2B's description does not have is noted, for a test to fail."""
    monkeypatch.setattr(cloud.state, "look_up", Mock(side_effect=ApiError(418, "teapot")))
    httpx.get(f"{cloud.url}/templates/x/tags", headers={"X-API-Key": cloud.key})
    (problem,) = cloud.problems
    assert (
        problem
        == "GET /templates/x/tags: status 418 is not one of [200, 400, 401, 403, 404, 429, 500]"
    )
    cloud.problems.clear()


def test_every_call_is_described(cloud: Server) -> None:
    """The server answers no call of E2B's interface that its description does not have."""
    described = description.calls()
    others = {
        "/health", "/contexts", "/contexts/{}/restart", "/api/kernels/{}/interrupt", "/execute",
        "/upload/{}",
    }  # fmt: skip
    for method, path, _ in (*cloud._templates.routes(), *cloud._sandboxes.routes()):
        call = description.shape(f"{method} {path}")
        assert (call in described) != (call.partition(" ")[2] in others), call


def test_sdk_knows_no_field_that_is_not_described() -> None:
    """Every field of the SDK's models is described, and what a model needs is never left out."""
    for name, fields in description.objects().items():
        described = {re.sub("(?<=[a-z])(?=[A-Z])", "_", field).lower() for field in fields}
        for known in inspect.signature(getattr(models, name)).parameters.values():
            field = known.name.rstrip("_")
            needed = known.default is inspect.Parameter.empty
            assert field in described or (not needed and f"{field}?" in described), (name, field)


def test_no_field_is_described_that_the_sdk_does_not_know() -> None:
    """The description has the fields of the SDK's models and, of its own, the one that is noted."""
    invented = set()
    for name, fields in description.objects().items():
        known = {key.rstrip("_") for key in inspect.signature(getattr(models, name)).parameters}
        for field in fields:
            plain = re.sub("(?<=[a-z])(?=[A-Z])", "_", field.rstrip("?")).lower()
            invented |= set() if plain in known else {f"{name}.{field}"}
    assert invented == {"TemplateStep.forceUpload?"}
