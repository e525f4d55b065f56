"""What a confined sandbox has of its template, its limits, and what it leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from builder.errors import InterpreterDiedError
from builder.render import Rendered
from builder.runtime import CodeExecutionPrimitive
from builder.sandbox.boundary import Boundary
from builder.sandbox.network import Network
from builder.system.logs import Log
from builder.targets.local import place
from builder.targets.local.confine.confinement import confinement
from builder.targets.local.confine.limits import OUTPUT_BYTES
from builder.targets.local.kernel import KernelSandbox
from builder.targets.local.launch import zygote_of
from builder.targets.local.target import LocalTarget
from builder.targets.protocol import Opening
from tests.conftest import BASE, ROOT, Command
from tests.support.here import build_here
from tests.support.sandboxes import prepared

pytestmark = [
    pytest.mark.network,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux confines sandboxes"),
]
SPEC = """
schema = 1
name = "kept"
extends = "_base"
[python]
packages = ["idna"]
[resources]
memory-mb = 512
cpu = 1
[env]
MODELS = "/root/.cache/models"
TOOLS = "/opt/tools"
[workdir]
path = "/srv/app"
[[files]]
source = "tool.sh"
target = "/usr/local/bin/tool"
mode = "0755"
[[files]]
source = "tool.sh"
target = "/opt/tools/tool.sh"
mode = "0640"
[[files]]
source = "tool.sh"
target = "/home/user/in/tool.sh"
"""


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> tuple[Rendered, str]:
    """A template with files at absolute paths and a working folder, and its ref."""
    folder = tmp_path_factory.mktemp("kept")
    (folder / "variants").mkdir()
    (folder / "variants" / "_base.toml").write_text(BASE.replace("    ", ""))
    (folder / "variants" / "kept.toml").write_text(SPEC)
    (folder / "variants" / "tool.sh").write_text("#!/bin/sh\necho a tool\n")
    rendered = prepared(folder)
    with pytest.MonkeyPatch.context() as patch, Log(folder / "logs", target="local") as log:
        patch.setenv("TEMPLATE_BUILDER_CACHE_DIR", str(cache))
        return rendered, build_here(rendered, log).ref


Opened = Callable[..., KernelSandbox]


@pytest.fixture(params=["forked", "cold"])
def opened(
    request: pytest.FixtureRequest, kept: tuple[Rendered, str], local_cache: Path
) -> Iterator[Opened]:
    """Open confined sandboxes of the template."""
    rendered, ref = kept
    path = place.find_build(ref, name="kept").path
    env = dict(rendered.variant.env)
    with contextlib.ExitStack() as stack:

        def open_one(network: object = "none", memory_mb: int = 512) -> KernelSandbox:
            boundary = Boundary(
                isolation="confined", memory_mb=memory_mb, cpu=1, network=Network.of(network)
            )
            confined = confinement(path, boundary)
            assert confined
            zygote = None
            if request.param == "forked":
                digest = str(rendered.digest)
                zygote = zygote_of(path, digest=digest, warm=(), env=env, view=confined.view)
            sandbox = KernelSandbox(path, warm=(), env=env, zygote=zygote, confined=confined)
            stack.callback(sandbox.close)
            return sandbox

        yield open_one


forked = pytest.mark.parametrize("opened", ["forked"], indirect=True)


def printed(sandbox: KernelSandbox, code: str) -> str:
    execution = sandbox.run(code, timeout=120)
    assert execution.error is None, execution
    return execution.stdout


@pytest.mark.slow
def test_template_is_as_its_spec_says(opened: Opened) -> None:
    """A confined sandbox has files at absolute paths with their modes, the spec's variables and
    working folder, and its own home."""
    code = """
import os, stat, subprocess
for path in ("/usr/local/bin/tool", "/opt/tools/tool.sh", "/home/user/in/tool.sh"):
    print(path, oct(stat.S_IMODE(os.stat(path).st_mode)), open(path).read().split()[-1])
print(subprocess.run(["tool"], capture_output=True, text=True).stdout.strip())
print(os.environ["MODELS"], os.environ["TOOLS"], os.environ["HOME"], os.getcwd())
os.makedirs(os.environ["MODELS"]); open(os.environ["MODELS"] + "/x", "w"); open("here", "w")
print(os.path.expanduser("~"), os.getuid(), len(os.sched_getaffinity(0)))
"""
    assert printed(opened(), code).splitlines() == [
        "/usr/local/bin/tool 0o755 tool",
        "/opt/tools/tool.sh 0o640 tool",
        "/home/user/in/tool.sh 0o644 tool",
        "a tool",
        "/root/.cache/models /opt/tools /home/user /home/user",
        "/home/user 1000 1",
    ]


@pytest.mark.slow
def test_commands_start_in_the_working_folder(
    kept: tuple[Rendered, str], local_cache: Path
) -> None:
    """A command of a sandbox starts in the template's working folder, and can write there."""
    opening = Opening(ref=kept[1], name="kept")
    with contextlib.closing(LocalTarget(isolation="confined").open(opening)) as sandbox:
        assert sandbox.command("pwd; touch here; ls", timeout=60).stdout == "/srv/app\nhere\n"


@pytest.mark.slow
def test_files_of_the_template_cannot_be_changed(opened: Opened) -> None:
    """The files of a template outside of the home, and its environment, are read-only."""
    code = """
import os, sysconfig
for path in ("/usr/local/bin/tool", "/opt/tools/tool.sh", "/opt/environment/pyvenv.cfg"):
    for change in (os.unlink, lambda p: open(p, "a"), lambda p: os.chmod(p, 0o777)):
        try: change(path); print("changed", path)
        except OSError as error: pass
"""
    assert printed(opened(), code) == ""


@pytest.mark.slow
def test_what_worked_in_a_sandbox_works_behind_walls(opened: Opened) -> None:
    """Threads, subprocesses, every way to start workers, shared memory, SQLite and the code's own
    server work in a confined sandbox."""
    code = """
import concurrent.futures, http.server, multiprocessing, os, sqlite3, subprocess, threading
import urllib.request
from multiprocessing import shared_memory
with concurrent.futures.ThreadPoolExecutor(4) as pool: print(sum(pool.map(abs, range(5))))
for method in multiprocessing.get_all_start_methods():
    with multiprocessing.get_context(method).Pool(2) as pool: print(method, pool.map(abs, [-1, -2]))
memory = shared_memory.SharedMemory(create=True, size=1 << 20); memory.buf[0] = 7
print(memory.buf[0]); memory.close(); memory.unlink()
print(sqlite3.connect("x.db").execute("select 6 * 7").fetchone()[0])
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(urllib.request.urlopen(f"http://localhost:{server.server_port}/").status)
print(subprocess.run("echo $((6 * 7)); cat /etc/hostname; hostname", shell=True, capture_output=True, text=True).stdout)
"""
    lines = printed(opened(), code).splitlines()
    assert [line for line in lines if line] == [
        "10", "fork [1, 2]", "spawn [1, 2]", "forkserver [1, 2]", "7", "42", "200", "42", "sandbox", "sandbox",
    ]  # fmt: skip


HOGS = {
    "memory": (
        "import mmap\nmaps = [mmap.mmap(-1, 1 << 26) for _ in range(40)]\n"
        "for m in maps: m.write(b'x' * (1 << 26))",
        "the sandbox was ended: the code exceeded its limit of 512 MiB of memory"
        " (`resources.memory-mb`)",
    ),
    "tmp and memory": (
        "x = b'x' * (300 << 20)\nwith open('/tmp/x', 'wb') as file:\n"
        "    for _ in range(250): file.write(bytes(1 << 20))\nimport time; time.sleep(30)",
        "the sandbox was ended: the code exceeded its limit of 512 MiB of memory"
        " (`resources.memory-mb`)",
    ),
}


@forked
@pytest.mark.parametrize("hog", HOGS)
def test_hog_ends_with_the_name_of_its_limit(opened: Opened, hog: str) -> None:
    """Code that exceeds the memory or disk of its sandbox ends only that sandbox, with a message
    that names the limit."""
    code, message = HOGS[hog]
    other, sandbox = opened(), opened()
    with pytest.raises(InterpreterDiedError) as died:
        sandbox.run(code, timeout=60)
    assert died.value.message == message
    assert printed(other, "print(1)") == "1\n"


@pytest.mark.slow
@forked
def test_process_limits_are_noted(opened: Opened) -> None:
    """Code that meets a limit for processes fails with an error and a note, and the session goes
    on."""
    sandbox = opened()
    for code, note in (
        ("x = bytearray(2 << 30)", "the sandbox has 512 MiB of memory"),
        ("import subprocess\nfor _ in range(1100): subprocess.Popen(['sleep', '20'])",
         "the sandbox may have 1024 processes and threads"),
        ("files = [open('/dev/null') for _ in range(9000)]", "a process in the sandbox may have 4096"),
        ("open('/tmp/x', 'wb').write(bytes(300 << 20))", "the sandbox may have "),
        ("import urllib.request; urllib.request.urlopen('http://example.com')", "the sandbox has no"),
    ):  # fmt: skip
        execution = sandbox.run(code, timeout=60)
        assert execution.error, code
        assert [each for each in execution.notes if each.startswith(note)], execution
        execution = sandbox.run("files = x = None", timeout=60)
        assert (execution.error, execution.notes) == (None, ())


@pytest.mark.slow
@forked
def test_endless_output_ends_the_execution(opened: Opened) -> None:
    """Code that writes without end is interrupted with a message that names the limit, and the
    session goes on."""
    sandbox = opened()
    code = "kept = 1\nimport os\nwhile True: os.write(1, b'x' * 65536)"
    execution = sandbox.run(code, timeout=300, limit=1000)
    assert execution.error == (
        f"OutputLimitError: the code was interrupted: it wrote more than {OUTPUT_BYTES >> 20} MiB of"
        " output, the limit for one execution"
    )
    assert not execution.timed_out
    assert printed(sandbox, "print(kept)") == "1\n"


def alive(folder: Path) -> list[int]:
    """Return the processes whose command line names a folder."""
    pids = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(folder).encode() in (path / "cmdline").read_bytes():
                pids.append(int(path.name))
    return pids


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@forked
@pytest.mark.parametrize("victim", ["keeper", "zygote", "outer bubblewrap", "guard"])
def test_kill_of_any_process_leaves_nothing(opened: Opened, victim: str) -> None:
    """If any process between the application and the code is killed, everything that the code
    started ends within a second."""
    sandbox = opened()
    printed(sandbox, "import subprocess; p = subprocess.Popen(['setsid', 'sleep', '1000'])")
    kernel = sandbox._process.pid  # type: ignore[union-attr]
    keeper = parent_of(kernel)
    zygote = parent_of(keeper)
    bwrap = parent_of(zygote)
    guard = parent_of(bwrap)
    inside = os.stat(f"/proc/{kernel}/ns/pid").st_ino
    chosen = {"keeper": keeper, "zygote": zygote, "outer bubblewrap": bwrap, "guard": guard}
    os.kill(chosen[victim], signal.SIGKILL)
    deadline = time.monotonic() + 5
    while (left := processes_in(inside)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert left == []
    # The children of a killed guard are reaped by the first process of the machine.
    assert victim == "guard" or reaped(kernel)


def reaped(pid: int) -> bool:
    """Return whether a process, which has ended, is reaped within a time."""
    deadline = time.monotonic() + 30
    while (exists := Path(f"/proc/{pid}").exists()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not exists


def processes_in(namespace: int) -> list[int]:
    pids = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # A dead process that is not reaped yet has no command line.
            running = (path / "cmdline").read_bytes()
            if running and os.stat(path / "ns" / "pid").st_ino == namespace:
                pids.append(int(path.name))
    return pids


def primitive(**options: Any) -> CodeExecutionPrimitive:
    return CodeExecutionPrimitive(template_id="one", target="local", **options)


@pytest.mark.usefixtures("local_one")
@pytest.mark.parametrize("isolation", ["confined", pytest.param("none", marks=pytest.mark.slow)])
def test_result_says_what_was_in_force(isolation: Any) -> None:
    """The output of code says how its sandbox is isolated."""

    async def run() -> tuple[str, str]:
        async with primitive(isolation=isolation) as executor:
            output = await executor.execute({"code": "import os; print(os.getcwd())"})
            return output["isolation"], output["output"].strip()

    in_force, folder = asyncio.run(run())
    assert in_force == isolation
    assert (folder == "/home/user") == (isolation == "confined")


def test_first_line_of_a_build_says_how_sandboxes_are_isolated(
    project: Path, command: Command
) -> None:
    """The first line of a build says what confines its sandboxes, or that nothing does."""
    for isolation, words in (
        ("confined", "; its sandboxes are confined by bubblewrap "),
        ("none", "; its sandboxes are not confined\n"),
    ):
        done = command("build", "absent", cwd=project, TEMPLATE_ISOLATION=isolation)
        assert done.stderr.startswith(f"target local: the default without E2B_API_KEY{words}")
    done = command("build", "absent", cwd=project, TEMPLATE_ISOLATION="all")
    assert 'TEMPLATE_ISOLATION is \'all\', expected "confined" or "none"' in done.stderr


@pytest.mark.usefixtures("local_one")
def test_killed_application_leaves_nothing() -> None:
    """No process of a sandbox is left after its application is killed."""
    program = (
        "import asyncio\n"
        "from builder.runtime import CodeExecutionPrimitive\n"
        "async def main():\n"
        "    async with CodeExecutionPrimitive(template_id='one', target='local',"
        " isolation='confined') as e:\n"
        "        r = await e.execute({'code': 'import subprocess; subprocess.Popen("
        '["setsid", "sleep", "54321"])\'})\n'
        "        print(r['error'], flush=True)\n"
        "        await asyncio.sleep(1000)\n"
        "asyncio.run(main())\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout
    assert process.stdout.readline() == "None\n"
    assert alive(Path("54321"))
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 10
    while (left := alive(Path("54321"))) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert left == []
