from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from builder import errors
from builder.flatten import flatten
from tests.conftest import Command
from tests.support import engine
from tests.support.engine import config_of
from tests.support.prechecks import SERVICE, failed, write_project

pytestmark = [pytest.mark.docker, pytest.mark.network]


@pytest.fixture
def create(write: Callable[..., Path], shared: Path) -> Callable[..., Path]:
    """Write a project with one variant on the base image, with the given text."""
    return functools.partial(write_project, write, known=shared / "known", network="host")


def containers(name: str) -> list[Any]:
    """Return the containers of a template's pre-checks."""
    labels = ["template-builder.owner", f"template-builder.precheck={name}"]
    listed: list[Any] = engine.client().containers.list(
        all=True, filters={"label": labels}, ignore_removed=True
    )
    return listed


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path: Path) -> Iterator[None]:
    yield
    for spec in tmp_path.glob("project/variants/[!_]*.toml"):
        assert containers(spec.stem) == []


@pytest.mark.slow
def test_what_is_found_in_a_real_machine(create: Callable[..., Path], command: Command) -> None:
    """The image is built, started, checked from inside at every warm-up level, and not built again
    while nothing changes."""
    project = create(
        '[python]\npackages = ["idna", "six"]\n'
        '[warmup]\nlevel = "memory"\nimports = ["idna", "sqlite3", "xml.dom.minidom"]\n'
        '[[files]]\nsource = "note"\ntarget = "/opt/note"\nmode = "0600"\n'
        '[[verify]]\nname = "the service has the environment"\n'
        "code = \"import os; print(os.environ['GREETING'], oct(os.stat('/opt/note').st_mode))\"\n"
        'stdout = "hello 0o100600"\n',
        name="found",
        base=SERVICE + '[env]\nGREETING = "hello"\n',
    )
    (project / "variants" / "note").write_text("a note")
    done = command("precheck", "--json", cwd=project)
    assert done.returncode == 0, done.stderr
    assert "precheck: drawing random numbers in two forks of the warm interpreter" in done.stderr
    (found,) = json.loads(done.stdout)
    assert found["packages"]["idna"]
    assert found["system_packages"]["sudo"]
    assert found["env"]["GREETING"] == "hello"
    assert (found["user"], found["workdir"]) == ("user", "/home/user")
    assert found["broken"] == []
    assert found["checks"] == ["import idna", "import six", "the service has the environment"]
    assert set(found["ready_seconds"]) == {"none", "disk", "memory"}
    totals = {level: sum(seconds.values()) for level, seconds in found["first_use"].items()}
    assert totals["memory"] < 0.05
    assert totals["memory"] < totals["disk"]
    again = command("precheck", "--frozen", cwd=project)
    assert again.returncode == 0, again.stderr
    assert "step" not in again.stderr
    assert again.stdout.splitlines()[1].split()[:2] == ["found", "unchanged"]
    assert ".precheck.log" in command("logs", "found", "--path", cwd=project).stdout


def test_python_that_does_not_fit(create: Callable[..., Path], command: Command) -> None:
    """An interpreter that `base.python` excludes stops the build before the slow steps."""
    project = create("", name="unfit")
    spec = project / "variants" / "_base.toml"
    spec.write_text(spec.read_text().replace(">=3.11", ">=3.28"))
    said = failed(command("precheck", cwd=project), errors.PrecheckError)
    assert said.startswith("error: base.python: the image has Python 3.")
    assert ", expected >=3.28\ngenerated/unfit/Dockerfile:\n" in said
    assert ">   16 | RUN python3 -c " in said
    assert said.endswith("hint: correct `base.python`, or choose another `base.image`\n")


@pytest.mark.slow
def test_step_that_fails(create: Callable[..., Path], command: Command) -> None:
    """A step that fails is told with its lines, what it said, and the place of the log."""
    project = create(
        '[warmup]\nlevel = "disk"\nimports = ["broken"]\n'
        '[[files]]\nsource = "broken.py"\ntarget = "/usr/local/lib/python3.13/site-packages/broken.py"\n',
        name="failing",
    )
    (project / "variants" / "broken.py").write_text("raise ValueError('out of order')\n")
    said = failed(command("precheck", cwd=project), errors.PrecheckError)
    assert "failed with code 1\ngenerated/failing/Dockerfile:\n" in said
    assert "| RUN python3 /opt/template/warmup.py" in said
    assert "ValueError: out of order\nlog: " in said


@pytest.mark.slow
def test_step_that_needs_too_much_memory(create: Callable[..., Path], command: Command) -> None:
    """A step that is killed for memory says so, and names the limit."""
    project = create(
        '[resources]\nmemory-mb = 256\n[warmup]\nlevel = "disk"\nimports = ["greedy"]\n'
        '[[files]]\nsource = "greedy.py"\ntarget = "/usr/local/lib/python3.13/site-packages/greedy.py"\n',
        name="greedy",
    )
    (project / "variants" / "greedy.py").write_text(
        "x = bytearray(2 << 30)\nfor i in range(0, len(x), 4096): x[i] = 1\n"
    )
    said = failed(command("precheck", cwd=project), errors.PrecheckError)
    assert "was killed: it needed more than the spec's 256 MiB of memory\n" in said
    assert said.endswith("hint: raise `resources.memory-mb`, or make the step use less\n")


@pytest.mark.slow
def test_step_that_fills_the_disk(create: Callable[..., Path], command: Command) -> None:
    """A step that finds no space says that the engine's disk is full."""
    project = create(
        '[warmup]\nlevel = "disk"\nimports = ["greedy"]\n'
        '[[files]]\nsource = "greedy.py"\ntarget = "/usr/local/lib/python3.13/site-packages/greedy.py"\n',
        name="full",
    )
    # The one file system of a build's container that is small; the whole disk is other tests', too.
    source = "with open('/dev/shm/full', 'wb') as file:\n    file.write(bytes(128 << 20))\n"
    (project / "variants" / "greedy.py").write_text(source)
    said = failed(command("precheck", cwd=project), errors.StorageError)
    assert said.startswith("error: the disk is full: the engine needed more space in step ")
    assert said.endswith("where the engine keeps images: `docker system df` shows it\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "service", "message"),
    [
        (
            "swollen",
            ["python3", "-c", "x = ' ' * (2 << 30)"],
            "the service of `swollen` was killed: it needed more than its 256 MiB of memory",
        ),
        (
            "ended",
            ["sh", "-c", "echo no service here; exit 3"],
            "the service of `ended` exited before it was ready: exit code 3\nno service here",
        ),
        (
            "silent",
            ["sh", "-c", "echo no port is open; exec sleep 1000"],
            "[Errno 111] Connection refused>\noutput of the service: no port is open\n\nhint: ",
        ),
    ],
)
def test_service_that_does_not_come_up(
    create: Callable[..., Path], command: Command, name: str, service: list[str], message: str
) -> None:
    """A service that is killed, ends, or never answers is told for what it is."""
    base = f"[service]\ncommand = {json.dumps(service)}\nready-url = 'http://localhost:49998/'\n"
    project = create("[resources]\nmemory-mb = 256\n", name=name, base=base, ready=6)
    assert message in failed(command("precheck", cwd=project), errors.PrecheckError)


@pytest.mark.slow
def test_what_an_install_breaks(create: Callable[..., Path], command: Command) -> None:
    """A package of the base that an upgrade breaks is an error, unless it is accepted by name; what
    changed is shown."""
    project = create('[python]\npackages = ["pygments==2.3.1"]\n', name="breaking")
    said = failed(command("precheck", cwd=project), errors.PrecheckError)
    assert said.startswith(
        "error: installing the packages of `breaking` broke packages of the base image"
    )
    assert "  ipython 9." in said
    assert said.endswith('[python] accept-broken = ["ipython", "ipython-pygments-lexers"]\n')
    spec = project / "variants" / "breaking.toml"
    spec.write_text(spec.read_text() + 'accept-broken = ["IPython", "ipython_pygments_lexers"]\n')
    found = command("precheck", cwd=project)
    assert found.returncode == 0, found.stderr
    assert "breaking: broken, but accepted: ipython 9." in found.stdout
    assert "breaking: pygments of the base image: 2." in found.stdout


def test_image_that_cannot_be_had(create: Callable[..., Path], command: Command) -> None:
    """A base image that is nowhere is told by name."""
    project = create("", name="nowhere")
    spec = project / "variants" / "_base.toml"
    spec.write_text(spec.read_text().replace(engine.base_image(), "localhost:1/nothing:here"))
    (project / "pyproject.toml").unlink()
    said = failed(command("precheck", cwd=project), errors.NetworkError)
    assert said.startswith(
        "error: the base image localhost:1/nothing:here is not on the engine and cannot be pulled\n"
    )


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_stopped_in_the_middle(
    create: Callable[..., Path], command: Command, tmp_path: Path, sent: signal.Signals
) -> None:
    """Ctrl-C leaves nothing running; what SIGKILL leaves is gone after the next run."""
    base = "[service]\ncommand = ['sleep', '1000']\nready-url = 'http://localhost:49998/'\n"
    name = f"stopped-{sent.name.lower()}"
    project = create("", name=name, base=base, ready=300)
    running = subprocess.Popen(
        [sys.executable, "-m", "builder", "precheck"],
        cwd=project,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"TEMPLATE_BUILDER_CACHE_DIR": str(tmp_path / "cache")},
    )
    try:
        # The pre-checks of other tests may run first.
        deadline = time.monotonic() + 500
        while not any(container.status == "running" for container in containers(name)):
            assert running.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        running.send_signal(sent)
        if sent is signal.SIGKILL:
            # Its process has an entry until it is waited for, so that no other test's run tidies up.
            os.waitid(os.P_PID, running.pid, os.WEXITED | os.WNOWAIT)
            (project / "variants" / "_base.toml").write_text("broken")
            nowhere = command("precheck", cwd=project, DOCKER_HOST="unix:///nowhere/docker.sock")
            failed(nowhere, errors.SpecError)  # before the engine is asked for anything
            assert containers(name) != []
        assert running.wait(timeout=60) in (errors.InterruptedRunError.exit_code, -signal.SIGKILL)
    finally:
        running.kill()
        running.wait()
    if sent is signal.SIGKILL:
        create("[[verify]]\nname = 'x'\ncode = 'pass'\n", name=name)
        assert command("precheck", cwd=project).returncode == 0


def test_build_pre_checks_where_it_is_set_to(create: Callable[..., Path], command: Command) -> None:
    """`build --precheck always` builds nothing of what fails with Docker, in a machine without a
    service, too, and tells both sides of a check; `auto` checks nothing on `local`."""
    project = create(
        "[[verify]]\nname = 'sum'\ncode = 'print(1 + 1)'\nstdout = '3'\n"
        "[[verify]]\nname = 'root'\ncode = 'open(\"/root/.bashrc\")'\n",
        name="checked",
    )
    error = failed(command("build", "--precheck", "always", cwd=project), errors.VerifyError)
    assert error.startswith("error: `checked` builds with Docker but fails its checks:\n")
    assert "  variants/checked.toml:5: check `sum` failed: expected '3', got '2'\n" in error
    assert "  variants/checked.toml:9: check `root` failed: PermissionError: " in error
    assert not (project / ".builder" / "precheck" / "checked.json").exists()
    assert not (project / "registry.json").exists()
    spec = project / "variants" / "checked.toml"
    spec.write_text(spec.read_text().replace("'3'", "'2'"))
    found = command("build", cwd=project)
    assert found.returncode in (0, errors.VerifyError.exit_code)
    assert "pre-check" not in found.stderr


@pytest.mark.soak
def test_generators_that_stay_the_same(create: Callable[..., Path], command: Command) -> None:
    """A generator that would draw the same numbers in every sandbox fails the pre-check, by its
    name, and one that is seeded with a constant at import does not."""
    project = create(
        '[warmup]\nlevel = "memory"\nimports = ["seeded"]\n'
        'reseed = "import seeded; seeded.again.seed(1)"\n'
        '[[files]]\nsource = "seeded.py"\ntarget = "/usr/local/lib/python3.13/site-packages/seeded.py"\n',
        name="seeded",
        base=SERVICE,
    )
    text = "import random\nonce, again = random.Random(1), random.Random(1)\n"
    (project / "variants" / "seeded.py").write_text(text)
    error = failed(command("precheck", cwd=project), errors.VerifyError)
    assert error.splitlines()[1:2] == [
        "  the random number generator `seeded.again` draws the same numbers in every sandbox: reseed"
        " it in `warmup.reseed`"
    ]
    assert "seeded.once" not in error


_COMPILED = """
import importlib.metadata, importlib.util, json, pathlib
distribution = importlib.metadata.distribution("pygments")
files = distribution.locate_file("pygments").rglob("*.py")
lacking = [str(f) for f in files if not pathlib.Path(importlib.util.cache_from_source(f)).exists()]
print(json.dumps([distribution.version, lacking]))
"""
_HOSTILE = r'override-dependencies = ["pygments==2.3.1"]\n[pip]\ntarget = "/elsewhere"\n'


@pytest.mark.slow
def test_packages_larger_than_tmp(
    write: Callable[..., Path], command: Command, tmp_path: Path
) -> None:
    """In a machine whose /tmp is a tmpfs smaller than the packages, as E2B's is, and whose `uv.toml`
    asks for another version in another place, the install steps unpack the locked packages on the
    disk, compile every module and leave no temporary file."""
    base = engine.base_image()
    project = write(
        _base=f'schema = 1\n[base]\nimage = "{base}"\npython = ">=3.11"\n',
        larger='schema = 1\nname = "larger"\nextends = "_base"\n[python]\npackages = ["pygments"]\n',
    ).parent
    rendered = command("render", cwd=project)
    assert rendered.returncode == 0, rendered.stderr
    context = project / "generated" / "larger"
    files = [str(path.relative_to(context)) for path in context.rglob("*") if path.is_file()]
    program = flatten((context / "Dockerfile").read_text(), files=files)
    lock = (context / "requirements" / "larger.txt").read_text()
    with engine.running(base, network="host", tmpfs={"/tmp": "size=1m"}) as container:
        machine = engine.Machine(container, config_of(base).env)
        machine.env["SSL_CERT_FILE"] = "/etc/ssl/certs/ca-certificates.crt"
        written = f"mkdir -p /etc/uv && printf '{_HOSTILE}' | tee /etc/uv/uv.toml >/uv.toml"
        machine.bash(written, user="root", env={})
        machine.carry_out(program, context)
        printout = machine.bash(f"python3 -c '{_COMPILED}'", user="user", env={})
        version, lacking = json.loads(printout)
        assert f"pygments=={version} " in lock
        assert lacking == []
        left = machine.bash("ls /tmp /opt/template", user="root", env={}).split()
        assert left == ["/opt/template:", "requirements", "uv", "warmup.py", "/tmp:"]


@pytest.mark.slow
def test_a_template_from_another_one(create: Callable[..., Path], command: Command) -> None:
    """A child is checked on the image of its parent's pre-check, with its files and packages; if
    the engine has none of that build, it says so."""
    project = create(
        '[python]\npackages = ["idna"]\n[[files]]\nsource = "note"\ntarget = "/opt/note"\n',
        name="parent",
        base=SERVICE + '[env]\nGREETING = "hello"\n',
    )
    note = f"note {uuid.uuid4()}"  # an earlier run of this test has left no image of it
    (project / "variants" / "note").write_text(note)
    (project / "variants" / "child.toml").write_text(
        'schema = 1\nname = "child"\nfrom-template = "parent"\n[python]\npackages = ["six"]\n'
        '[[verify]]\nname = "the parent is there"\n'
        "code = \"import idna, os; print(os.environ['GREETING'], open('/opt/note').read())\"\n"
        f'stdout = "hello {note}"\n'
    )
    done = command("build", "parent", "--target", "local", cwd=project)
    assert done.returncode == 0, done.stderr
    lacking = (
        "not pre-checked with Docker: the engine has no image of local:parent@sha256-",
        "which it is from; `template-builder precheck parent` makes it if that build is the latest",
    )
    done = command("precheck", "child", cwd=project)
    assert done.returncode == 0, done.stderr
    for text in lacking:
        assert text in done.stderr
    done = command("precheck", "--json", cwd=project)
    assert done.returncode == 0, done.stderr
    child, parent = sorted(json.loads(done.stdout), key=lambda image: str(image["name"]))
    assert child["checks"] == ["import six", "the parent is there"]
    assert child["env"]["GREETING"] == "hello"
    assert (child["user"], child["workdir"]) == ("user", "/home/user")
    assert child["layers"] > parent["layers"]
