from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from builder.errors import SandboxError, SandboxGoneError
from builder.render import Rendered
from builder.targets.local import place
from builder.targets.local.kernel import KernelSandbox
from builder.targets.local.launch import zygote_of
from builder.targets.local.target import LocalTarget
from builder.targets.protocol import Opening
from tests.conftest import ROOT
from tests.support.runs import until
from tests.support.sandboxes import alive, gone

pytestmark = pytest.mark.network


@pytest.fixture
def sandbox(ref: str) -> Iterator[KernelSandbox]:
    variables = {"HOUSE": "/root/.cache/house", "X": "1"}
    with place.opened(ref, name="light") as path:
        opened = KernelSandbox(path, warm=(), env=variables)
    yield opened
    opened.close()


def test_environment_holds_exactly_the_lock(
    light: Rendered, ref: str, sandbox: KernelSandbox
) -> None:
    """Every locked distribution is installed in its locked version, the kernel's own beside it."""
    code = (
        "import importlib.metadata as m, json\n"
        "print(json.dumps({d.metadata['Name'].lower(): d.version for d in m.distributions()}))"
    )
    installed = json.loads(sandbox.run(code, timeout=30).stdout)
    assert {name: installed[name] for name in light.lock.packages} == light.lock.packages
    assert "ipykernel" in installed


def test_code_gives_output_results_and_errors(sandbox: KernelSandbox) -> None:
    """Output, rich results and errors with their traceback come back apart from each other."""
    found = sandbox.run(
        "import sys; print('out'); print('err', file=sys.stderr); 6 * 7", timeout=30
    )
    assert (found.stdout, found.stderr, found.error) == ("out\n", "err\n", None)
    assert [(one.text, one.is_main) for one in found.results] == [("42", True)]
    failed = sandbox.run("def f():\n    return 1 / 0\nf()", timeout=30)
    assert failed.error == "ZeroDivisionError: division by zero"
    assert "return 1 / 0" in failed.traceback
    assert "\x1b" not in failed.traceback


@pytest.mark.slow
def test_state_lasts_within_a_sandbox_and_no_longer(ref: str, sandbox: KernelSandbox) -> None:
    """Names and files live as long as their sandbox, and no other sandbox sees them."""
    sandbox.run("x = 1; open('file', 'w').write('1')", timeout=30)
    assert sandbox.run("print(x, open('file').read())", timeout=30).stdout == "1 1\n"
    other = LocalTarget().open(Opening(ref=ref, name="light"))
    try:
        found = other.run("import os; print('x' in globals(), os.path.exists('file'))", timeout=30)
        assert found.stdout == "False False\n"
    finally:
        other.close()


def test_sandbox_sees_no_secret(ref: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of the one who opens a sandbox does not reach the code in it."""
    monkeypatch.setenv("E2B_API_KEY", "canary-in-the-environment")
    monkeypatch.setenv("SOME_TOKEN", "canary-in-the-environment")
    opened = LocalTarget().open(Opening(ref=ref, name="light"))
    try:
        found = opened.run("import os; print(dict(os.environ))", timeout=30)
        assert "canary" not in found.stdout
    finally:
        opened.close()


def test_template_environment_reaches_the_code(sandbox: KernelSandbox) -> None:
    """The template's variables are there, with the homes of an E2B sandbox moved to this one's."""
    found = sandbox.run("import os; print(os.environ['X'], os.environ['HOUSE'])", timeout=30)
    assert found.stdout == f"1 {sandbox.home}/.cache/house\n"
    where = sandbox.run("import os; print(os.getcwd(), os.path.expanduser('~'))", timeout=30)
    assert where.stdout == f"{sandbox.home} {sandbox.home}\n"


def test_timeout_interrupts_and_keeps_the_sandbox(sandbox: KernelSandbox) -> None:
    """Code that runs out of time is interrupted; what was there before is still there."""
    sandbox.run("x = 5", timeout=30)
    found = sandbox.run("print('started', flush=True)\nwhile True: pass", timeout=1)
    assert (found.timed_out, found.stdout, found.error) == (
        True,
        "started\n",
        "KeyboardInterrupt: ",
    )
    assert sandbox.run("print(x)", timeout=30).stdout == "5\n"


@pytest.mark.slow
def test_code_that_does_not_obey_is_killed(sandbox: KernelSandbox) -> None:
    """Code that swallows the interrupt loses its sandbox, and a later run says so."""
    code = (
        "import time\n"
        "while True:\n"
        "    try:\n"
        "        time.sleep(60)\n"
        "    except KeyboardInterrupt:\n"
        "        pass\n"
    )
    found = sandbox.run(code, timeout=1)
    assert found.timed_out
    with pytest.raises(SandboxError, match="the sandbox is closed, or its kernel was killed"):
        sandbox.run("1", timeout=5)
    assert not sandbox.home.exists()


def test_kernel_that_dies_is_an_error_not_a_wait(sandbox: KernelSandbox) -> None:
    """A kernel that ends itself is noticed at once."""
    start = time.monotonic()
    with pytest.raises(SandboxError, match="the code ended its interpreter with exit status 1"):
        sandbox.run("import os; os._exit(1)", timeout=60)
    assert time.monotonic() - start < 30


@pytest.mark.timeout(60)
def test_kernel_that_closed_its_connection_is_gone(
    sandbox: KernelSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code for a kernel that has ended unnoticed is refused at once, and not held until it returns."""
    sandbox.abort()
    shell = sandbox._client._shell
    assert shell
    until(lambda: not shell.poll(0, zmq.POLLOUT), 30)
    monkeypatch.setattr(sandbox._process, "gone", lambda: False)
    with pytest.raises(SandboxGoneError) as caught:
        sandbox.run("print(1)", timeout=30)
    assert caught.value.message == "the sandbox is gone: its kernel has closed the connection"


def test_close_ends_what_the_code_started(sandbox: KernelSandbox) -> None:
    """Processes that code left in the background, even in a session of their own, end with it."""
    code = (
        "import os, subprocess\n"
        "a = subprocess.Popen(['sleep', '1000'])\n"
        "b = subprocess.Popen(['sh', '-c', 'sleep 1000 & echo $!'], start_new_session=True,"
        " stdout=subprocess.PIPE, text=True)\n"
        "print(os.getpid(), a.pid, b.stdout.readline().strip())"
    )
    pids = [int(pid) for pid in sandbox.run(code, timeout=30).stdout.split()]
    assert all(alive(pid) for pid in pids)
    sandbox.close()
    assert all(gone(pid) for pid in pids)
    assert not sandbox.home.exists()
    sandbox.close()


@pytest.mark.slow
def test_nothing_survives_the_owner(ref: str, local_cache: Path) -> None:
    """When the owner of a sandbox is killed, the kernel, its children and its folder go."""
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from builder.targets.local.target import LocalTarget\n"
        "from builder.targets.protocol import Opening\n"
        "sandbox = LocalTarget(isolation='none').open(Opening(ref=sys.argv[2], name='light'))\n"
        "print(sandbox.run('import os, subprocess;"
        ' print(os.getpid(), subprocess.Popen(["sleep", "1000"]).pid, os.getcwd())\','
        " timeout=30).stdout, flush=True)\n"
        "time.sleep(1000)\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", code, str(ROOT), ref], stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout
    kernel, child, home = owner.stdout.readline().split()
    folder = Path(home).parent
    assert alive(int(kernel))
    assert alive(int(child))
    owner.send_signal(signal.SIGKILL)
    owner.communicate()
    assert gone(int(kernel))
    assert gone(int(child))
    deadline = time.monotonic() + 60
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not folder.exists()


def test_warm_sandbox_has_imported_and_left_no_name(ref: str) -> None:
    """A memory-warm sandbox has the modules in memory, and nothing in its namespace."""
    opened = LocalTarget().open(Opening(ref=ref, name="light", warm=["dateutil.parser"]))
    try:
        code = "import sys; print('dateutil.parser' in sys.modules, '_name' in globals(), len(In))"
        assert opened.run(code, timeout=30).stdout == "True False 2\n"
    finally:
        opened.close()


@pytest.mark.slow
def test_warm_import_that_fails_leaves_no_sandbox(ref: str) -> None:
    """A warm-up import that is not there is an error, and the half-open sandbox is closed."""
    with pytest.raises(SandboxError) as caught:
        LocalTarget().open(Opening(ref=ref, name="light", warm=["absent_module"]))
    assert caught.value.message == (
        "the warm-up imports fail in the sandbox:"
        " ModuleNotFoundError: No module named 'absent_module'"
    )


def test_kernel_has_no_heartbeat(sandbox: KernelSandbox) -> None:
    """A kernel starts no thread for a heartbeat, which the application does not use."""
    code = "import threading; print(*sorted(thread.name for thread in threading.enumerate()))"
    assert "Heartbeat" not in sandbox.run(code, timeout=30).stdout.split()


@pytest.mark.slow
def test_configuration_of_ipython_is_used(light: Rendered, ref: str) -> None:
    """A file `etc/ipython/ipython_config.py` of an environment configures each forked kernel."""
    with place.opened(ref, name="light") as path:
        file = path / "etc" / "ipython" / "ipython_config.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(
            "c.InteractiveShellApp.exec_lines = ['configured = 6 * 7']\n"
            "c.InteractiveShell.ast_node_interactivity = 'none'\n"
        )
        zygote = zygote_of(path, digest=light.digest, warm=(), env={})
        try:
            opened = KernelSandbox(path, warm=(), env={}, zygote=zygote)
            execution = opened.run("configured\nprint(configured)", timeout=30)
            opened.close()
        finally:
            file.unlink()
            zygote.close()
    assert (execution.error, execution.stdout, execution.results) == (None, "42\n", ())


@pytest.mark.slow
def test_connection_without_a_request_leaves_nothing(light: Rendered, ref: str) -> None:
    """The process that a zygote forks for a connection ends with it, if no request came."""
    with place.opened(ref, name="light") as path:
        zygote = zygote_of(path, digest=light.digest, warm=(), env={})
        try:
            zygote.connect().end()
            opened = KernelSandbox(path, warm=(), env={}, zygote=zygote)
            code = "import os; print(os.getppid())"
            keeper = int(opened.run(code, timeout=30).stdout)
            others = Path(f"/proc/{keeper}/stat").read_text().rpartition(")")[2].split()[1]
            children = Path(f"/proc/{others}/task/{others}/children").read_text()
            opened.close()
        finally:
            zygote.close()
    assert children.split() == [str(keeper)]
