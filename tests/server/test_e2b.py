from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from builder.errors import (
    CacheMissError,
    NetworkError,
    StepError,
    TargetUnavailableError,
    VerifyError,
)
from tests.conftest import Command
from tests.support.clouds import NAMES, Place
from tests.support.e2b_server import Fault, ModelledSteps, Server
from tests.support.e2b_server.state import Team

TARGET = '[tool.template-builder.targets.staging]\nkind = "e2b"\napi-key-env = "STAGING_KEY"\n'


def test_four_variants_are_built_verified_published_recorded(place: Place, cloud: Server) -> None:
    """Every variant ends as one build that carries its digest's tag, `default` and the channel's,
    and the registry holds what was measured of it. Each distinct step is run by one build; the
    others find it, as the plan expects."""
    planned = place.planned()
    outcomes = place.build()
    assert {name: outcome.action for name, outcome in outcomes.items()} == dict.fromkeys(
        NAMES, "built"
    )
    for name in NAMES:
        (build,) = cloud.builds(name)
        record = place.recorded(name)
        assert outcomes[name].ref == f"{build.template_id}:{build.id}"
        assert (record["template_id"], record["build_id"]) == (build.template_id, build.id)
        tag = record["digest"].replace(":", "-")
        tags = (tag, "default", "stable", f"stable.{build.id}")
        assert cloud.tags(name) == dict.fromkeys(tags, build.id)
        seconds = record["verified"]["seconds"]
        assert 0 < seconds["created"] < seconds["ready"] <= seconds["sandbox"]
    one = place.recorded("one")
    assert one["verified"]["checks"] == ["import packaging", "import idna", "a sum"]
    assert set(one["verified"]["seconds"]["first_use"]) == {"disk", "memory"}
    assert set(one["packages"]) == {"packaging", "idna"}
    assert cloud.created == len(cloud.ended) == 6  # three of the one that is kept warm
    assert cloud.running == {}
    assert len(cloud.state.executed) == len(set(cloud.state.executed))
    expected_cached = {one.name: (one.cached, one.cached_by) for one in planned.variants}
    assert expected_cached == {
        "four": (0, None),
        "one": (3, "four"),
        "three": (3, "four"),
        "two": (5, "one"),
    }
    steps = {one.name: len(one.step_keys) for one in planned.variants}
    assert len(cloud.state.executed) == sum(steps.values()) - sum(
        n for n, _ in expected_cached.values()
    )
    assert place.warnings() == []


@pytest.mark.slow
def test_request_is_the_program(place: Place, cloud: Server) -> None:
    """What E2B is asked to build is the flattened Program: steps, commands, resources."""
    place.edit(
        "_base", lambda text: f"{text}[resources]\ncpu = 4\nmemory-mb = 512\nfree-disk-mb = 9\n"
    )
    place.build("one")
    (build,) = cloud.builds("one")
    (planned,) = place.planned("one").variants
    assert planned.program
    asked = build.request
    assert asked["fromImage"] == "localhost:1/python:3.13"
    assert asked["force"] is False
    assert (asked["startCmd"], asked["readyCmd"]) == (
        planned.program.start_command,
        planned.program.ready_command,
    )
    assert [(s["type"], *s["args"]) for s in asked["steps"]] == [
        (step.kind, *step.args) for step in planned.program.steps
    ]
    assert (build.cpu, build.memory_mb, build.free_disk_mb) == (4, 512, 9)


@pytest.mark.slow
def test_publishing_comes_after_verifying(place: Place, cloud: Server) -> None:
    """The tags move when the sandboxes of the build were used and ended, and not before."""
    place.build("one")
    asked = cloud.front.requests
    executed = max(n for n, r in enumerate(asked) if r == "POST /execute")
    ended = max(n for n, r in enumerate(asked) if r.startswith("DELETE /sandboxes/"))
    assert asked.count("POST /templates/tags") == 2  # the claim, and the channel
    assert executed < ended < asked.index("POST /templates/tags")


@pytest.mark.slow
def test_failed_check_leaves_the_last_good_build(place: Place, ready: Server) -> None:
    """A build that is not what it promises moves no tag and is not recorded, though it is there."""
    before, tags = (place.folder / "registry.json").read_text(), ready.tags("one")
    place.edit("one", lambda text: text.replace('stdout = "2"', 'stdout = "3"'))
    error = place.build("one")["one"].error
    assert isinstance(error, VerifyError)
    assert str(error) == (
        "`one` was built on `e2b` but failed verification:\n"
        "  variants/one.toml:10: check `a sum` failed: expected '3', got '2'\n\n"
        "hint: nothing was recorded; `template-builder logs one` shows the details"
    )
    assert (place.folder / "registry.json").read_text() == before
    assert {tag: build for tag, build in ready.tags("one").items() if tag in tags} == tags
    assert ready.running == {}
    place.edit("one", lambda text: text.replace('stdout = "3"', 'stdout = "2"'))
    assert place.build("one")["one"].action == "skipped"


@pytest.mark.slow
def test_interpreter_that_dies_is_no_success(place: Place, cloud: Server) -> None:
    """A check whose interpreter ends without a word fails, though the service reports no error."""
    place.edit("two", lambda t: f'{t}[[verify]]\nname = "end"\ncode = "import os; os._exit(0)"\n')
    error = place.build("two")["two"].error
    assert isinstance(error, VerifyError)
    assert re.search(
        r"variants/two.toml:\d+: check `end` failed: the interpreter died while it ran the code",
        error.message,
    )
    assert cloud.running == {}


def test_failed_step_is_told_with_its_places(
    place: Place, lead: Callable[[Server], Server]
) -> None:
    """A step that fails is an error with its instruction, the lines of the Dockerfile and of the
    spec behind it, what E2B says and the last lines of its output."""
    with Server(ModelledSteps(fails=lambda s: _fails(s, "RUN", "one.txt"))) as server:
        lead(server)
        error = place.build("one")["one"].error
    assert isinstance(error, StepError)
    assert str(error) == (
        "step 7 of 10 failed on e2b: RUN mkdir /opt/template/tmp && TMPDIR=/opt/template/tmp"
        " /opt/template/uv/bin/uv pip install --system --break-system-pack …\n"
        "  .builder/context/one/Dockerfile:45 (stage one)\n"
        "  variants/one.toml:5: `python.packages`\n"
        "  E2B says: exit status 1\n"
        "  | line 0 of RUN\n"
        "  | it went wrong\n\n"
        f"hint: `template-builder logs one` shows the whole log of build {server.builds()[0].id}"
    )
    assert not (place.folder / "registry.json").exists()


def _fails(step: dict[str, object], kind: str, text: str) -> str | None:
    return "exit status 1" if step["type"] == kind and text in str(step["args"]) else None


@pytest.mark.slow
def test_shared_step_that_fails_is_tried_once(
    place: Place, lead: Callable[[Server], Server]
) -> None:
    """Of variants that share a step that fails, one runs it; those that do not share it are built."""
    with Server(ModelledSteps(fails=lambda s: _fails(s, "RUN", "_shared.txt"))) as server:
        lead(server)
        outcomes = place.build()
        assert {name: outcome.action for name, outcome in outcomes.items()} == {
            "four": "built",
            "one": "failed",
            "three": "built",
            "two": "failed",
        }
        assert outcomes["two"].error
        assert outcomes["two"].error.message == (
            "not built: step 5 is shared with `one`, where it failed"
        )
        assert server.builds("two") == []


@pytest.mark.slow
def test_second_run_skips_and_force_builds_all(place: Place, cloud: Server) -> None:
    """What is recorded and there is skipped: no build is asked for, no sandbox opened. With --force
    nothing comes from the cache of before, and still no step runs twice."""
    place.build()
    cloud.front.requests.clear()
    outcomes = place.build()
    assert {outcome.action for outcome in outcomes.values()} == {"skipped"}
    assert {request.split()[0] for request in cloud.front.requests} == {"GET"}
    assert not place.planned().something_to_do
    first = list(cloud.state.executed)
    refs = {name: place.recorded(name)["build_id"] for name in NAMES}
    cloud.state.executed.clear()
    outcomes = place.build(force=True)
    assert {outcome.action for outcome in outcomes.values()} == {"built"}
    assert sorted(cloud.state.executed) == sorted(first)
    assert all(place.recorded(name)["build_id"] != refs[name] for name in NAMES)


@pytest.mark.slow
def test_step_that_should_be_cached(place: Place, ready: Server) -> None:
    """A step that was run though an earlier build left it in the cache is a warning; with
    --require-cache it is an error, and the build is not published."""
    place.edit("two", lambda text: f'{text}[env]\nA = "1"\n')
    assert place.planned("two").variants[0].cached == 5
    ready.state.layers.clear()
    error = place.build("two", require_cache=True)["two"].error
    assert isinstance(error, CacheMissError)
    told = "steps that should have come from the cache ran again: 1, 2, 3, 4, 5"
    assert error.message == f"`two` was built, but {told}"
    assert "default" not in ready.tags("two")
    # The same build, taken up: it is still not what was asked for.
    assert isinstance(place.build("two", require_cache=True)["two"].error, CacheMissError)
    assert place.build("two")["two"].action == "built"
    assert len(ready.builds("two")) == 1
    place.events.clear()
    place.edit("three", lambda text: f'{text}[env]\nA = "1"\n')
    place.build("four")
    ready.state.layers.clear()
    assert place.build("three")["three"].action == "built"
    assert place.warnings() == ["steps that should have come from the cache ran again: 1, 2, 3"]
    assert place.recorded("three")["warnings"][-1] == place.warnings()[0]


@pytest.mark.slow
def test_concurrent_builds_stay_under_the_limit(
    place: Place, lead: Callable[[Server], Server]
) -> None:
    """An account that may run one build at a time gets them one after another, and is told why."""
    team = Team(key="e2b_" + "1" * 40, builds_at_a_time=1)
    with Server(ModelledSteps(final_seconds=1.5), teams=[team]) as server:
        lead(server)
        outcomes = place.build()
    assert {outcome.action for outcome in outcomes.values()} == {"built"}
    told = [event.text for event in place.events if event.kind == "detail"]
    assert any("maximum number of concurrent template builds (1)" in text for text in told)


@pytest.mark.slow
def test_jobs_bound_the_builds_at_a_time(place: Place, lead: Callable[[Server], Server]) -> None:
    """With --jobs 1 no two builds run at once, so that the limit is never met."""
    team = Team(key="e2b_" + "1" * 40, builds_at_a_time=1)
    with Server(ModelledSteps(final_seconds=0.2), teams=[team]) as server:
        lead(server)
        place.build(jobs=1)
        assert server.front.requests.count("POST /v3/templates") == 4


@pytest.mark.slow
def test_targets_are_accounts(
    place: Place, lead: Callable[[Server], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another target in pyproject.toml is another account: its own key, builds and records."""
    (place.folder / "pyproject.toml").write_text(TARGET)
    teams = [Team(key="e2b_" + "1" * 40), Team(key="e2b_" + "2" * 40, slug="staging")]
    with Server(teams=teams) as server:
        lead(server)
        with pytest.raises(TargetUnavailableError) as caught:
            place.build("four", target="staging")
        assert caught.value.message == (
            "target `staging` needs an account: `STAGING_KEY` is not set"
        )
        monkeypatch.setenv("STAGING_KEY", teams[1].key)
        assert place.build("four", target="staging")["four"].action == "built"
        assert place.build("four")["four"].action == "built"
        assert {build.team.key for build in server.builds("four")} == {t.key for t in teams}
        assert place.recorded("four", "staging")["build_id"] != place.recorded("four")["build_id"]


@pytest.mark.slow
def test_domain_is_that_of_the_target(
    place: Place, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    """A target's domain is where its API is looked for; doctor says which keys are set, and that nobody
    answers there."""
    settings = TARGET + 'domain = "cluster.invalid"\n'
    (place.folder / "pyproject.toml").write_text(settings)
    monkeypatch.setenv("STAGING_KEY", "canary")
    found = command("plan", "--frozen", "--target", "staging", cwd=place.folder)
    assert found.returncode == NetworkError.exit_code
    assert found.stderr.startswith("target staging: requested, at cluster.invalid\n")
    assert "(https://api.cluster.invalid)\n" in found.stderr
    looked = command("doctor", cwd=place.folder)
    assert re.search(r"- +target e2b +E2B_API_KEY is not set; only this target", looked.stdout)
    assert re.search(r"no +target staging +STAGING_KEY is set; asking for the acc", looked.stdout)
    assert looked.returncode == NetworkError.exit_code
    assert "canary" not in found.stderr + looked.stdout


def test_key_that_is_refused(place: Place, cloud: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong key is told by the name of its variable, at once, and never shown."""
    monkeypatch.setenv("E2B_API_KEY", "e2b_canary")
    with pytest.raises(TargetUnavailableError) as caught:
        place.build("four")
    assert caught.value.message.startswith("E2B refused the key of target `e2b`: 401: ")
    assert "canary" not in str(caught.value)
    # Each of the looks at one variant asks once: a wrong key does not become right.
    assert len(cloud.front.requests) == 1


def test_code_service_that_is_not_up_is_waited_for(
    place: Place, lead: Callable[[Server], Server]
) -> None:
    """The service of a new sandbox may answer 502 for a while; how long is in the record."""
    with Server(ready_after=1.0) as server:
        lead(server)
        place.build("four")
    seconds = place.recorded("four")["verified"]["seconds"]
    assert seconds["created"] < seconds["ready"]
    assert seconds["ready"] >= 1.0


@pytest.mark.slow
def test_sandbox_that_cannot_be_ended_is_named(place: Place, cloud: Server) -> None:
    """When ending a sandbox fails for good, a warning says which, and how long it lives on."""
    cloud.front.faults.append(Fault("DELETE /sandboxes/.*", "status", code=500, times=99))
    assert place.build("four")["four"].action == "built"
    (sandbox,) = cloud.running
    (warning,) = place.warnings()
    assert re.fullmatch(
        rf"cannot end the sandbox {sandbox}: .*; E2B ends it within \d+ seconds",
        warning,
    )


def test_log_is_whole(place: Place, lead: Callable[[Server], Server], command: Command) -> None:
    """However long the log is, every line of it is in ours once, in order, and `logs` shows it."""
    with Server(ModelledSteps(lines=250)) as server:
        lead(server)
        place.build("four")
        (build,) = server.builds("four")
    said = [entry["message"] for entry in build.log]
    assert len(said) > 1500
    lines = "\n".join(
        line[10:] if line[9:10] == " " else line for line in place.log("four").splitlines()
    )
    assert "\n".join(said) in lines
    shown = command("logs", "four", cwd=place.folder)
    assert shown.stdout == place.log("four")


def test_key_is_nowhere(place: Place, lead: Callable[[Server], Server]) -> None:
    """The key is in no file of the project after builds that succeed and builds that fail, even
    when a step prints it."""
    key = "e2b_" + "c" * 40
    steps = ModelledSteps(fails=lambda s: f"it said {key}" if "two.txt" in str(s["args"]) else None)
    with Server(steps, teams=[Team(key=key)]) as server:
        lead(server)
        outcomes = place.build()
    assert outcomes["two"].error
    assert "it said <E2B_API_KEY>" in outcomes["two"].error.message
    texts = [p.read_bytes() for p in place.folder.rglob("*") if p.is_file()]
    assert not any(key.encode() in text for text in texts)
    assert not any(key in event.text for event in place.events)


@pytest.mark.usefixtures("with_four")
def test_channel_of_its_own_leaves_default_alone(place: Place, cloud: Server) -> None:
    """A build for another channel moves that channel's tag; a bare name on E2B means `stable`."""
    stable = cloud.tags("four")["default"]
    place.edit("four", lambda text: f'{text}[env]\nA = "1"\n')
    place.build("four", channel="canary")
    tags = cloud.tags("four")
    assert tags["default"] == tags["stable"] == stable != tags["canary"]


def test_variant_without_a_service_runs_no_code(place: Place, cloud: Server) -> None:
    """A variant without a service is built on E2B if its checks need no code, and blocked if they
    do."""
    place.edit("one", lambda text: text.replace('level = "memory"', 'level = "disk"'))
    text = (place.folder / "variants" / "_base.toml").read_text()
    place.edit("_base", lambda _: text.partition("[service]")[0])
    four, one = place.planned("four", "one").variants
    assert (four.action, one.action) == ("build", "blocked")
    assert str(one.reasons[0]) == (
        "nothing runs code in its sandboxes, since there is no [service]: write `command` or `http`"
        " instead of `code` in the check `a sum` (variants/one.toml:11)"
    )
    assert place.build("four")["four"].error is None
    assert place.recorded("four")["verified"]["checks"] == ["import iniconfig"]
    assert place.recorded("four")["warnings"][-1] == (
        "not provided by e2b: running code in its sandboxes, since there is no [service]:"
        " applications can run commands"
    )


@pytest.mark.slow
def test_modes_of_the_context_do_not_matter(places: Callable[[str], Place], cloud: Server) -> None:
    """Two machines whose files have other modes ask for the same steps, and share the cache."""
    one, other = places("one"), places("other")
    for path in (other.folder / "generated").rglob("*"):
        path.chmod(0o775 if path.is_dir() else 0o664)
    one.build("four")
    executed = len(cloud.state.executed)
    other.build("four", force=False)
    assert len(cloud.builds("four")) == 1
    (other.folder / "registry.json").unlink()
    cloud.state.templates.clear()
    other.build("four")
    assert len(cloud.state.executed) == executed
