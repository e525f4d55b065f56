from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import e2b
import pytest

from builder import workflow
from builder.cli import progress
from builder.cli.app import run
from builder.cli.doctor import live, trial
from builder.cli.doctor.assumptions import ASSUMPTIONS, ENV, verdicts
from builder.cli.doctor.live import Checked
from builder.errors import (
    AssumptionError,
    NetworkError,
    TargetUnavailableError,
    TemplateError,
    UnconfirmedError,
)
from builder.project import BUILT_IN_TARGETS
from builder.registry import Ref
from builder.system.events import Event, discard
from builder.targets.e2b import retries
from builder.workflow import BuildRequest
from tests.conftest import ROOT
from tests.support.clouds import Place
from tests.support.e2b_server import ModelledSteps, Server
from tests.support.e2b_server.egress import Egress
from tests.support.e2b_server.faults import Fault

pytestmark = pytest.mark.usefixtures("local_cache")

BASE = (
    '[base]\nimage = "localhost:1/python:3.13"\npython = ">=3.11"\n'
    '[service]\ncommand = ["serve"]\nready-url = "http://localhost:49999/health"\n'
)
COST = (
    "four builds, two of them cancelled, and at most 12 sandboxes of 2 CPUs and 1024 MiB, which end"
    " as soon as possible; if each ran for 15 minutes, they would cost $0.35 at E2B's"
    " prices of August 2026"
)
# What the server of the tests has no machine for.
OF_THE_MACHINE = {
    "variables": "differs",
    "login": "differs",
    "accounts": "differs",
    "ownership": "differs",
    "tmp": "differs",
}
SLOW = ModelledSteps(seconds=lambda step: 2.0 * ("sleep 60" in step["args"]))


@pytest.mark.slow
@pytest.mark.network
def test_every_assumption_is_tried(
    lead: Callable[[Server], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a server that behaves as E2B, all holds but what takes a machine; nothing is left of it,
    nor of a run that was killed, and what is somebody else's stays."""
    monkeypatch.setattr(live, "_BEGIN_SECONDS", 0.3)
    monkeypatch.setattr(trial, "_ABANDONED", -trial._ABANDONED)
    monkeypatch.setenv("TEMPLATE_REGISTRY", "/nowhere/registry.json")
    with Server(SLOW) as server:
        lead(server)
        for name in ("template-builder-doctor-killed", "template-builder"):
            e2b.Template.build_in_background(e2b.Template().from_image("x"), name)
        checked, left, ended = live.try_out(BUILT_IN_TARGETS["e2b"], report=discard, base=BASE)
        assert {one.key: one.state for one in checked} == dict.fromkeys(
            ASSUMPTIONS, "holds"
        ) | OF_THE_MACHINE
        assert (left, ended) == ([], None)
        assert [one.name for one in server.state.templates.values()] == ["template-builder"]
        assert server.running == {}
        assert server.problems == []


def test_older_build_that_was_ready_before_it_was_overtaken(
    place: Place, cloud: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a build that ended before another one overtook it, nothing is said that differs."""
    monkeypatch.setattr(live, "_BEGIN_SECONDS", 1.0)
    settings = BUILT_IN_TARGETS["e2b"]
    project = trial.Throwaway(root=tmp_path / "trial", targets={"e2b": settings})
    request = BuildRequest(names=["four"], frozen=True)
    (rendered,) = workflow.prepare(request, place._context("e2b"), workflow.RENDER).rendered
    made = trial.Made(ref=Ref("x:y"), build_id="y", rendered=rendered, cached="")
    trying = live._Live(trial.Trial(project, settings, report=discard, base=BASE), discard)
    trying._overtake(made)
    assert {build.status for build in cloud.builds()} == {"ready"}
    states = {one.key: (one.state, one.seen) for one in trying.results.in_order()}
    assert states["overtaken"][0] == "holds"
    assert states["cancelled"] == (
        "not checked",
        "the older build was ready before it was overtaken",
    )


@pytest.mark.slow
@pytest.mark.network
def test_refusal_decides_one_line(
    lead: Callable[[Server], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that E2B refuses decides the line that needs it, and the others are tried; an answer
    that is not E2B's ends the run, and what was seen before is told with that error."""
    monkeypatch.setattr(live, "_BEGIN_SECONDS", 0.3)
    monkeypatch.setattr(retries.Patience, "_seconds_before", lambda *_: 0.0)
    events: list[Event] = []
    with Server(SLOW) as server:
        lead(server)
        server.front.faults += [
            Fault("GET /v2/templates", "status", code=403, times=1000),
            Fault(r"GET /templates/\w+", "status", code=404, times=1),
            Fault("DELETE /templates/tags", "status", code=200, body="<html>", times=1000),
        ]
        checked, left, ended = live.try_out(
            BUILT_IN_TARGETS["e2b"], report=events.append, base=BASE
        )
        states = {line.key: line.state for line in checked if line.key not in OF_THE_MACHINE}
        assert {key for key, state in states.items() if state == "differs"} == {"used", "order"}
        assert states["source"] == "holds"
        assert states["left"] == "not checked"
        assert isinstance(ended, NetworkError)
        assert ended.message.endswith("` failed: the response is not from E2B's API")
        assert left == []
        assert server.state.templates == {}
        assert server.running == {}
    assert [event.text for event in events if event.kind == "warning"] == [
        "templates of killed runs may be left: listing templates was refused: 403: injected"
    ]


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.usefixtures("with_four")
@pytest.mark.parametrize(
    ("ignored", "state", "answer"),
    [
        (False, "holds", "allowed: example.com, *.example.org; denied: 0.0.0.0/0"),
        (True, "differs", "allowed: all; denied: none"),
    ],
)
def test_network_that_is_ignored_differs(
    cloud: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ignored: bool,
    state: str,
    answer: str,
) -> None:
    """`doctor --live` reports a cluster that ignores the network of a sandbox."""
    if ignored:
        monkeypatch.setattr(Egress, "of", lambda _fields: Egress())
    settings = BUILT_IN_TARGETS["e2b"]
    project = trial.Throwaway(root=tmp_path / "trial", targets={"e2b": settings})
    tried = trial.Trial(project, settings, report=discard, base=BASE)
    tried.name = "four"
    trying = live._Live(tried, discard)
    trying._look_outside()
    assert trying.results["network"] == Checked(key="network", state=state, seen=answer)  # type: ignore[arg-type]


def seen(**changed: Any) -> str:
    """What an inspection prints on E2B, but for what is changed."""
    return json.dumps(
        {
            "warm": True,
            "variables": ENV,
            "user": "root",
            "folder": "/home/user",
            "files": {
                "/home/user/template-doctor": ["user", "0600"],
                "/usr/local/share/template-doctor": ["root", "0777"],
                "/opt/template-doctor/kept": ["root", "0640"],
            },
            "tmp": "tmpfs",
            "tmp_bytes": 500,
            "memory_bytes": 1000,
            **changed,
        }
    )


COMMAND = "user\n/home/user\n" + "\0".join(f"{name}={value}" for name, value in ENV.items()) + "\0"


@pytest.mark.parametrize(
    ("told", "command", "differs"),
    [
        (seen(), COMMAND, set()),
        (seen(), None, set()),
        (seen(warm=False), COMMAND, {"warm"}),
        (seen(variables={**ENV, "TEMPLATE_DOCTOR_PLAIN": "a"}), COMMAND, {"variables"}),
        (seen(user="user"), COMMAND, {"accounts"}),
        (seen(), COMMAND.replace("user\n", "root\n", 1), {"accounts"}),
        (seen(), COMMAND.replace("$(id)", "uid=0"), {"login"}),
        (seen(files={**json.loads(seen())["files"], "/opt/template-doctor/kept": "no such"}), COMMAND, {"ownership"}),
        (seen(tmp="ext4"), COMMAND, {"tmp"}),
        (seen(tmp_bytes=900), COMMAND, {"tmp"}),
    ],
)  # fmt: skip
def test_machine_is_judged_by_what_it_says(
    told: str, command: str | None, differs: set[str]
) -> None:
    """What a sandbox says of itself decides each assumption about its machine, and only that one."""
    judged = {key: holds for key, holds, _ in verdicts(told, command)}
    assert {key for key, holds in judged.items() if not holds} == differs
    assert set(judged) == {"warm", "variables", "ownership", "tmp"} | (
        {"login", "accounts"} if command else set()
    )


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_nothing_is_built_without_a_yes(cloud: Server, options: list[str]) -> None:
    """Where nobody can be asked, and without --yes, it says what it would cost, and does nothing."""
    with pytest.raises(UnconfirmedError) as caught:
        run(["doctor", "--live", "--target", "e2b", *options])
    assert (
        caught.value.message == f"this would take {COST} on e2b, but there is no terminal to ask at"
    )
    assert caught.value.hint == "`--yes` continues without asking"
    assert cloud.front.requests == []


def test_no_is_taken_for_an_answer(cloud: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person is told what it costs, and without their yes nothing is done."""
    monkeypatch.setattr(progress, "interactive", lambda: True)
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    assert run(["doctor", "--live"]) == 1
    assert f"This takes {COST} on e2b. Continue? [y/N]" in stderr.getvalue()
    assert cloud.front.requests == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--live"], "target `e2b` needs an account: `E2B_API_KEY` is not set"),
        (["--live", "--target", "local"], "target `local` is this machine: --live tests an account on E2B"),
    ],
)  # fmt: skip
def test_what_is_no_account_is_not_tried(options: list[str], words: str) -> None:
    """A target without its key, and one that is this machine, is an error before anybody is asked."""
    with pytest.raises(TargetUnavailableError, match=re.escape(words)):
        run(["doctor", *options, "--yes"])


def test_what_differs_is_shown(
    cloud: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every line is in the table and in the JSON, with what could not be removed, and what differs, or
    what ended the run, is the error."""
    checked = [
        Checked(key="tags", state="holds", seen="default, stable"),
        Checked(key="tmp", state="differs", seen="ext4"),
        Checked(key="busy", state="not checked", seen="what it needs was not there"),
    ]
    left = ["the template x (abc): a sandbox runs"]
    ended: TemplateError | None = None
    monkeypatch.setattr(live, "try_out", lambda *_, **__: (checked, left, ended))
    message = (
        "1 assumption about E2B does not hold on e2b:\n"
        "  the folder for temporary files is in memory, and may take half of it: ext4"
    )
    with pytest.raises(AssumptionError) as caught:
        run(["doctor", "--live", "--yes"])
    assert (caught.value.message, caught.value.exit_code) == (message, 51)
    out = capsys.readouterr().out
    assert [line.split("  ")[0] for line in out.splitlines()[1:]] == ["holds", "differs", "not checked"]  # fmt: skip
    with pytest.raises(AssumptionError):
        run(["doctor", "--live", "--yes", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["left"] == left
    ended = NetworkError("the network is down")
    with pytest.raises(NetworkError, match="the network is down"):
        run(["doctor", "--live", "--yes"])
    assert capsys.readouterr().out == out
    assert told["assumptions"][1] == {
        "key": "tmp", "assumed": ASSUMPTIONS["tmp"], "state": "differs", "seen": "ext4",
    }  # fmt: skip


def test_what_cannot_be_removed_is_said(
    cloud: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A template that E2B does not delete is named with E2B's reason, whatever ended the run."""
    monkeypatch.setattr(trial, "_DELETE_SECONDS", 0.0)
    events: list[Event] = []
    settings = BUILT_IN_TARGETS["e2b"]
    project = trial.Throwaway(root=tmp_path)
    made = trial.Trial(project, settings, report=events.append, base=BASE)
    e2b.Template.build_in_background(e2b.Template().from_image("x"), made.name)
    cloud.front.faults.append(Fault("DELETE /templates/.*", "status", code=400))
    made.clean_up()
    (template,) = cloud.state.templates
    text = (
        f"the template {made.name} ({template}): deleting the template {template} was refused: 400:"
        " injected"
    )
    assert made.left == [text]
    assert [event.text for event in events] == [f"not removed from e2b: {text}"]
    made.clean_up()
    assert cloud.state.templates == {}


@pytest.mark.slow
@pytest.mark.network
def test_interrupt_leaves_nothing(lead: Callable[[Server], Server]) -> None:
    """After Ctrl-C in the middle of a build nothing of it is left on E2B, and the command says so."""
    with Server(ModelledSteps(seconds=lambda _step: 0.5)) as server:
        lead(server)
        process = subprocess.Popen(
            [sys.executable, "-m", "builder", "doctor", "--live", "--yes", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        while not any(build.status == "building" for build in server.builds()):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
        assert process.returncode == 130, err
        assert err.endswith(
            "error: interrupted; all that it made was removed from e2b\n\n"
            "hint: run the same command again; it begins anew\n"
        )
        assert {each["state"] for each in json.loads(out)["assumptions"]} == {"not checked"}
        assert server.state.templates == {}
        assert server.running == {}
        assert server.problems == []


def test_documented_assumptions_are_those_that_are_tried() -> None:
    """docs/e2b.md has every assumption that is tried out, in the same order."""
    page = (ROOT / "docs" / "e2b.md").read_text()
    rows = re.findall(r"^\| (.+?) \| .+? \|$", page, re.MULTILINE)
    assert rows[1:] == list(ASSUMPTIONS.values())
