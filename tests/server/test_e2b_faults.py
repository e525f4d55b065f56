from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from builder.errors import (
    BuildError,
    LimitError,
    NetworkError,
    StepError,
    VerifyError,
)
from builder.targets.e2b import retries
from tests.conftest import Command
from tests.support.clouds import Place
from tests.support.e2b_server import Fault, ModelledSteps, Server
from tests.support.options import rounds
from tests.support.runs import until

# Every call that building one variant makes.
CALLS = {
    "tags": r"GET /templates/four/tags",
    "request": r"POST /v3/templates",
    "file": r"GET /templates/\w+/files/\w+",
    "upload": r"PUT /upload/.*",
    "start": r"POST /v2/templates/.*",
    "status": r"GET /templates/.*/status",
    "create": r"POST /v2/sandboxes",
    "ready": r"GET /contexts",
    "kill": r"DELETE /sandboxes/.*",
    "publish": r"POST /templates/tags",
}
FAULTS = {
    "429": Fault("", "status", code=429),
    "429 with Retry-After": Fault("", "status", code=429, headers={"Retry-After": "1"}),
    "500": Fault("", "status", code=500),
    "503": Fault("", "status", code=503),
    "reset before it was handled": Fault("", "reset before"),
    "reset after it was handled": Fault("", "reset after"),
    "slow body": Fault("", "slow body"),
    "truncated": Fault("", "truncated"),
}
# One run with the fault at every call takes less time than a run a call, which `soak` has.
GROUPS = (
    {name: {name: call} for name, call in CALLS.items()} if rounds(1) > 1 else {"every call": CALLS}
)


def forget(place: Place, server: Server) -> None:
    """One build was run, published and recorded; no sandbox is left; nothing is open."""
    started = [build for build in server.builds("four") if build.times_started]
    assert [build.status for build in started] == ["ready"]
    assert place.recorded("four")["build_id"] == started[0].id
    tags = server.tags("four")
    assert tags["default"] == tags["stable"] == started[0].id
    assert server.running == {}
    assert len(server.state.executed) == len(set(server.state.executed))
    assert server.problems == []


@pytest.mark.slow
@pytest.mark.chance
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("group", GROUPS)
def test_fault_passes(place: Place, cloud: Server, group: str, fault: str) -> None:
    """A fault that passes, at any call, leaves one build, published and recorded once."""
    faults = [
        dataclasses.replace(FAULTS[fault], request=request) for request in GROUPS[group].values()
    ]
    cloud.front.faults += faults
    outcome = place.build("four")["four"]
    assert outcome.error is None, outcome.error
    assert [one.request for one in faults if not one.happened] == []
    forget(place, cloud)


def test_start_whose_answer_is_lost_is_reported(place: Place, cloud: Server) -> None:
    """A build whose start went through without an answer is this run's: it is said to have started,
    and its steps are shown."""
    fault = Fault(CALLS["start"], "reset after")
    cloud.front.faults.append(fault)
    assert place.build("four")["four"].error is None
    assert fault.happened == 1
    (build,) = cloud.builds("four")
    steps = [event.text for event in place.events if event.kind == "step"]
    assert steps.count(f"build {build.id} started") == 1
    assert any(text.startswith("step 1 of ") for text in steps)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.usefixtures("with_four")
def test_fault_of_a_look_passes(place: Place, cloud: Server, fault: str) -> None:
    """A fault that passes, at any call of the look before a plan, does not change the plan."""
    calls = (CALLS["tags"], r"GET /templates/aliases/four", CALLS["status"])
    faults = [dataclasses.replace(FAULTS[fault], request=call) for call in calls]
    cloud.front.faults += faults
    assert [one.action for one in place.planned("four").variants] == ["skip"]
    assert [one.happened for one in faults] == [1, 1, 1]


@pytest.mark.slow
def test_retry_after_is_obeyed(place: Place, cloud: Server) -> None:
    """Nobody asks again before the time that E2B has named."""
    fault = Fault("POST /v3/templates", "status", code=429, headers={"Retry-After": "2"})
    cloud.front.faults.append(fault)
    outcome = place.build("four")["four"]
    assert outcome.error is None
    assert outcome.seconds > 2
    assert cloud.front.requests.count("POST /v3/templates") == 2


@pytest.mark.parametrize("kind", ["status", "reset after", "truncated"])
def test_code_is_not_run_twice(place: Place, cloud: Server, kind: str) -> None:
    """When the answer of a run of code is lost, the verification ends and the code is not run again;
    the next run verifies the very same build."""
    ran = place.folder / "ran"
    code = f"open({str(ran)!r}, 'a').write('x')"
    place.edit("four", lambda t: f'{t}[[verify]]\nname = "w"\ncode = """{code}"""\n')
    # Three come before: what the interpreter is set up by, the inventory and a smoke test.
    fault = Fault("POST /execute", kind, code=500, skip=3)  # type: ignore[arg-type]
    cloud.front.faults.append(fault)
    error = place.build("four")["four"].error
    assert type(error) is (NetworkError if kind == "reset after" else VerifyError)
    assert ("check `w` failed: the sandbox " in error.message) is (kind != "reset after")
    assert fault.happened == 1
    assert not ran.exists() or ran.read_text() == "x"
    assert cloud.running == {}
    ran.unlink(missing_ok=True)
    assert place.build("four")["four"].action == "built"
    assert ran.read_text() == "x"
    forget(place, cloud)


def test_refused_execution_is_tried_again(place: Place, cloud: Server) -> None:
    """A run of code that was refused at the door did not happen, and is asked for again."""
    for code in (429, 502, 503):
        cloud.front.faults.append(Fault("POST /execute", "status", code=code))
    assert place.build("four")["four"].error is None
    forget(place, cloud)


def test_lost_pages_of_the_log_are_asked_for_again(
    place: Place, lead: Callable[[Server], Server]
) -> None:
    """A page of the log that comes empty, in the middle or at the end, leaves no gap in ours."""
    with Server(ModelledSteps(lines=120, seconds=lambda _: 0.05)) as server:
        lead(server)
        server.front.faults += [
            Fault(CALLS["status"], "lost page", skip=skip) for skip in (1, 3, 5, 8, 9, 10, 11)
        ]
        assert place.build("four")["four"].error is None
        (build,) = server.builds("four")
        log = place.log("four")
        places = [log.index(entry["message"].splitlines()[0]) for entry in build.log]
        assert all(entry["message"].splitlines()[0] in log for entry in build.log), places


@pytest.mark.parametrize("hours", [-48, 48])
def test_clocks_may_differ(place: Place, lead: Callable[[Server], Server], hours: int) -> None:
    """Nothing depends on whether the clock of E2B and ours agree."""
    with Server(skew=hours * 3600) as server:
        lead(server)
        assert place.build("four")["four"].error is None
        forget(place, server)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "fault", "kind", "told"),
    [
        ("request", Fault("", "status", code=500), NetworkError, "requesting a build of `four` failed: 500: injected"),
        ("request", Fault("", "status", code=400), BuildError, "requesting a build of `four` was refused: 400: injected"),
        ("upload", Fault("", "status", code=403), NetworkError, "uploading `"),
        ("start", Fault("", "status", code=503), NetworkError, "starting build "),
        ("status", Fault("", "truncated"), NetworkError, "asking for the state of build "),
        ("create", Fault("", "status", code=500), NetworkError, "creating a sandbox of `"),
        ("publish", Fault("", "status", code=500), NetworkError, "moving the tags stable."),
    ],
)  # fmt: skip
def test_fault_that_stays(
    place: Place,
    cloud: Server,
    call: str,
    fault: Fault,
    kind: type[Exception],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A fault that does not pass ends the build with its own error; nothing is recorded or lost,
    and once it is over, the next run ends what this one began."""
    seconds = retries.Patience._seconds_before
    shorter: Callable[..., float] = lambda *of: seconds(*of) / 20  # noqa: E731
    monkeypatch.setattr(retries.Patience, "_seconds_before", shorter)
    fault = dataclasses.replace(fault, request=CALLS[call], times=1000)
    cloud.front.faults.append(fault)
    error = place.build("four")["four"].error
    assert type(error) is kind, error
    assert error.message.startswith(told)
    assert not (place.folder / "registry.json").exists()
    assert cloud.running == {}
    cloud.front.faults.clear()
    outcome = place.build("four")["four"]
    assert outcome.error is None, outcome.error
    until(lambda: all(build.status != "building" for build in cloud.builds("four")))
    forget(place, cloud)


@pytest.mark.slow
def test_limit_that_stays(place: Place, cloud: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit that is not lifted is waited for, and then told as what it is."""
    shorter = dataclasses.replace(retries.OF_BUILDS, limit_seconds=3.0)
    monkeypatch.setattr("builder.targets.e2b.cloud.OF_BUILDS", shorter)
    cloud.front.faults.append(Fault(CALLS["request"], "status", code=429, times=1000))
    error = place.build("four")["four"].error
    assert isinstance(error, LimitError)
    assert str(error) == (
        "requesting a build of `four` was refused for too long: 429: injected\n\n"
        "hint: wait for builds and sandboxes to end, or ask E2B for a higher limit"
    )


def test_base_image_that_cannot_be_pulled(place: Place, lead: Callable[[Server], Server]) -> None:
    """A base that E2B cannot start from is an error with the line of the spec that names it."""

    class NoBase(ModelledSteps):
        def base(self, image: str) -> None:
            from tests.support.e2b_server.starting import StepError as Failed

            raise Failed("error pulling the image")

    with Server(NoBase()) as server:
        lead(server)
        outcomes = place.build()
    error = outcomes["four"].error
    assert isinstance(error, StepError)
    said, _, log = error.message.partition("\n  | Building template ")
    assert said == (
        "the base image failed on e2b: FROM localhost:1/python:3.13\n"
        "  .builder/context/four/Dockerfile\n"
        "  variants/_base.toml:3: `base.image`\n"
        "  E2B says: error pulling the image"
    )
    assert "\n  | [base] FROM localhost:1/python:3.13 [" in log
    told = [outcome.error.message for outcome in outcomes.values() if outcome.error]
    assert told.count("not built: the base image is that of `four`, where it failed") == 3


@pytest.mark.slow
def test_address_of_an_upload_is_not_shown(
    place: Place, lead: Callable[[Server], Server], command: Command
) -> None:
    """The address that files are uploaded to is signed: it is in no message and no log."""
    with Server() as server:
        lead(server)
        server.front.faults.append(Fault("PUT /upload/.*", "status", code=403, times=1000))
        said = command("build", "four", "--frozen", "--precheck", "never", cwd=place.folder)
        assert len(server.builds("four")) == 1  # each further one would wait for its files
    assert "` failed: Client error '403 Forbidden' for url" in said.stderr
    for text in (said.stderr, said.stdout, place.log("four")):
        assert "/upload/" not in text


def test_error_without_a_reason(
    place: Place, cloud: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed build of which E2B does not say where is told by the last step of its log."""
    monkeypatch.setattr(cloud, "tells_reasons", False)
    assert isinstance(cloud.steps, ModelledSteps)
    cloud.steps.fails = lambda step: "no" if step["type"] == "COPY" else None
    error = place.build("four")["four"].error
    assert isinstance(error, StepError)
    assert error.message.startswith("step 2 of 6 failed on e2b: COPY requirements/uv.txt ")
    assert "  E2B says: nothing\n" in error.message


def test_connection_that_is_lost_while_a_build_is_verified(place: Place, cloud: Server) -> None:
    """A connection that is lost during a check is a fault of the network, and not of the build,
    which the next run verifies."""
    cloud.front.faults.append(Fault("POST /execute", "reset after"))
    error = place.build("four")["four"].error
    assert type(error) is NetworkError
    assert ": the connection was lost while code ran; it is not run again: " in error.message
    assert error.hint == "run the same command again: it continues where this one stopped"
    assert place.build("four")["four"].error is None
    assert len(cloud.builds("four")) == 1
