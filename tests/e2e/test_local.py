from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builder import workflow
from builder.errors import (
    BuildError,
    NotOnThisMachineError,
    SandboxError,
    VerifyError,
)
from builder.project import Project
from builder.registry.model import Entry
from builder.render import Rendered
from builder.system.events import discard
from builder.system.logs import Log
from builder.targets.local import place
from builder.targets.local.kernel import KernelSandbox
from builder.targets.local.target import LocalTarget
from builder.targets.protocol import Opening, StateQuery
from builder.verify import verify
from tests.conftest import BASE, ROOT
from tests.support.here import build_here, unseal
from tests.support.sandboxes import LIGHT, alive, gone, prepared

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


def test_second_build_finds_the_first(light: Rendered, ref: str, log: Log) -> None:
    """An environment of the same digest is not made twice, and its recorded times are kept."""
    first = build_here(light, log)
    assert first.reused
    assert set(first.cold) == {"idna", "dateutil.parser"}


def test_files_are_linked_from_the_cache_of_uv(light: Rendered, ref: str) -> None:
    """Installed files are hard links, so that a second environment costs next to no space."""
    found = place.find(light.digest)
    assert found
    (module,) = found.path.glob("lib/python*/site-packages/idna/core.py")
    assert module.stat().st_nlink > 1


def test_every_module_has_byte_code(light: Rendered, ref: str) -> None:
    """After a build all that can be imported has its byte code on disk, whether the warm-up imports
    it or not: the locked packages and the kernel's."""
    found = place.find(light.digest)
    assert found
    (packages,) = found.path.glob("lib/python*/site-packages")
    for name in ("idna", "dateutil", "yaml", "ipykernel", "IPython"):
        for module in (packages / name).rglob("*.py"):
            assert Path(importlib.util.cache_from_source(str(module))).exists(), module


def test_broken_environment_is_not_found(light: Rendered, ref: str) -> None:
    """An environment whose interpreter is gone counts as not there."""
    found = place.find(light.digest)
    assert found
    unseal(found.path)
    python = found.path / "bin" / "python"
    moved = python.rename(python.with_name("python.moved"))
    try:
        assert place.find(light.digest) is None
        query = StateQuery(rendered=light, recorded=Entry(), channel="stable")
        assert not LocalTarget().look(query).present
        with pytest.raises(NotOnThisMachineError) as caught:
            LocalTarget().open(Opening(ref=ref, name="light"))
        assert str(caught.value) == (
            f"the environment of `{ref}` is not on this machine\n\n"
            "hint: `template-builder build light --frozen --target local` makes it"
        )
    finally:
        moved.rename(python)


def test_one_maker_at_a_time(light: Rendered, tmp_path: Path) -> None:
    """Three processes that build one digest at once make it once, and all have it."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from builder import workflow\n"
        "from builder.registry.model import Build\n"
        "from builder.targets.protocol import BuildInput, Publication\n"
        "from builder.system.events import discard\n"
        "from builder.system.logs import Log\n"
        "from builder.project import Project\n"
        "from builder.targets.local.target import LocalTarget\n"
        "project = Project.find(Path(sys.argv[2]))\n"
        "request = workflow.BuildRequest(frozen=True)\n"
        "context = workflow.Context(project=project)\n"
        "(r,) = workflow.prepare(request, context, workflow.RENDER).rendered\n"
        "target, log = LocalTarget(), Log(Path(sys.argv[2]) / 'logs', target='local')\n"
        "with target.claimed('light'):\n"
        "    built = target.build(BuildInput(rendered=r, folder=Path()), report=discard, log=log)\n"
        "    build = Build(digest=built.digest)\n"
        "    target.publish(Publication(name='light', build=build, channel='stable'))\n"
        "print(built.reused)\n"
    )
    project = tmp_path / "project"
    (project / "variants").mkdir(parents=True)
    (project / "variants" / "_base.toml").write_text(BASE.replace("    ", ""))
    (project / "variants" / "light.toml").write_text(LIGHT)
    generated = project / "generated" / "light"
    for file in light.files:
        (generated / file.path).parent.mkdir(parents=True, exist_ok=True)
        (generated / file.path).write_bytes(file.content)
    cache = tmp_path / "cache"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(ROOT), str(project)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"TEMPLATE_BUILDER_CACHE_DIR": str(cache)},
        )
        for _ in range(3)
    ]
    said = sorted(process.communicate()[0].strip() for process in running)
    assert said == ["False", "True", "True"]
    assert sorted(p.is_symlink() for p in (cache / "environments").iterdir()) == [False, True]


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


def test_nothing_survives_the_owner(ref: str, local_cache: Path) -> None:
    """When the owner of a sandbox is killed, the kernel, its children and its folder go."""
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from builder.targets.local.target import LocalTarget\n"
        "from builder.targets.protocol import Opening\n"
        "sandbox = LocalTarget().open(Opening(ref=sys.argv[2], name='light'))\n"
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
    assert alive(int(kernel))
    assert alive(int(child))
    owner.send_signal(signal.SIGKILL)
    owner.communicate()
    assert gone(int(kernel))
    assert gone(int(child))
    deadline = time.monotonic() + 60
    while Path(home).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(home).parent.exists()


def test_warm_sandbox_has_imported_and_left_no_name(ref: str) -> None:
    """A memory-warm sandbox has the modules in memory, and nothing in its namespace."""
    opened = LocalTarget().open(Opening(ref=ref, name="light", warm=["dateutil.parser"]))
    try:
        code = "import sys; print('dateutil.parser' in sys.modules, '_name' in globals(), len(In))"
        assert opened.run(code, timeout=30).stdout == "True False 2\n"
    finally:
        opened.close()


def test_warm_import_that_fails_leaves_no_sandbox(ref: str) -> None:
    """A warm-up import that is not there is an error, and the half-open sandbox is closed."""
    with pytest.raises(SandboxError) as caught:
        LocalTarget().open(Opening(ref=ref, name="light", warm=["absent_module"]))
    assert caught.value.message == (
        "the warm-up imports fail in the sandbox:"
        " ModuleNotFoundError: No module named 'absent_module'"
    )


def test_verified_build_carries_its_measurements(light: Rendered, ref: str, log: Log) -> None:
    """Verification runs the derived smoke tests and gives first-use times at every level."""
    built = build_here(light, log)
    verified = verify(built, light, LocalTarget(), report=discard, log=log)
    assert [check.name for check in verified.checks] == [
        "import idna",
        "import python-dateutil (dateutil)",
        "import pyyaml (yaml)",
    ]
    assert verified.packages == light.lock.packages
    assert {level: set(times) for level, times in verified.first_use.items()} == {
        level: {"idna", "dateutil.parser"} for level in ("cold", "disk", "memory")
    }
    assert sum(verified.first_use["memory"].values()) < sum(verified.first_use["disk"].values())
    assert verified.sandbox_seconds > 0
    assert verified.warm_sandbox_seconds


@pytest.mark.parametrize(
    ("block", "failure"),
    [
        (
            "code = 'print(4)'\nstdout = '5'",
            "variants/light.toml:7: check `odd` failed: expected '5', got '4'",
        ),
        (
            "code = 'import absent'",
            "variants/light.toml:7: check `odd` failed:"
            " ModuleNotFoundError: No module named 'absent'\n"
            '      File "odd", line 1, in <module>\n'
            "        import absent",
        ),
        (
            "code = 'while True: pass'\nstdout = 'x'\ntimeout = 1",
            "variants/light.toml:7: check `odd` failed: it did not finish within 1 second",
        ),
        (
            "code = 'import os; os._exit(3)'",
            "variants/light.toml:7: check `odd` failed:"
            " the code ended its interpreter with exit status 3",
        ),
        (
            "code = 'import os; os.kill(os.getpid(), 9)'",
            "variants/light.toml:7: check `odd` failed: the interpreter was ended by SIGKILL while"
            " it ran the code, as when memory runs out",
        ),
        (
            "code = 'import os; os.abort()'",
            "variants/light.toml:7: check `odd` failed: the interpreter was ended by SIGABRT while"
            " it ran the code",
        ),
        (
            "code = 'def half(x):\\n    return x / 0\\n\\nhalf(1)'".replace("'", '"'),
            "variants/light.toml:7: check `odd` failed: ZeroDivisionError: division by zero\n"
            '      File "odd", line 4, in <module>\n'
            "        half(1)\n"
            '      File "odd", line 2, in half\n'
            "        return x / 0",
        ),
        (
            "code = 'print(1'",
            "variants/light.toml:7: check `odd` failed: SyntaxError: '(' was never closed",
        ),
    ],
)
def test_failed_check_says_what_was_expected_and_found(
    write: Callable[..., Path], local_cache: Path, log: Log, block: str, failure: str
) -> None:
    """A build that does not hold up fails with the check, what it should give and what it gave."""
    folder = write(
        _base=BASE,
        light="schema = 1\nname = 'light'\nextends = '_base'\n[python]\npackages = ['idna']\n"
        f"[[verify]]\nname = 'odd'\n{block}\n",
    )
    rendered = prepared(folder.parent)
    built = build_here(rendered, log)
    with pytest.raises(VerifyError) as caught:
        verify(built, rendered, LocalTarget(), report=discard, log=log)
    assert caught.value.message.startswith(
        f"`light` was built on `local` but failed verification:\n  {failure}"
    )
    assert "ipykernel" not in caught.value.message.lower()


def test_checks_do_not_see_each_other(
    write: Callable[..., Path], local_cache: Path, log: Log
) -> None:
    """A check cannot pass on a name that the check before it has left."""
    folder = write(
        _base=BASE,
        light="schema = 1\nname = 'light'\nextends = '_base'\n"
        "[[verify]]\nname = 'first'\ncode = 'left = 1'\n"
        "[[verify]]\nname = 'second'\ncode = 'print(left)'\n",
    )
    rendered = prepared(folder.parent)
    built = build_here(rendered, log)
    with pytest.raises(VerifyError, match="failed: NameError: name 'left' is not defined"):
        verify(built, rendered, LocalTarget(), report=discard, log=log)


def test_warm_up_import_that_is_missing_fails_the_build(
    write: Callable[..., Path], local_cache: Path, log: Log
) -> None:
    """A warm-up import that no package brings fails the build, says which, and leaves nothing."""
    folder = write(
        _base=BASE,
        light="schema = 1\nname = 'light'\nextends = '_base'\n"
        "[warmup]\nlevel = 'disk'\nimports = ['absent_module']\n",
    )
    rendered = prepared(folder.parent)
    with pytest.raises(BuildError) as caught:
        build_here(rendered, log)
    assert caught.value.message == (
        "the warm-up imports fail in the new environment:\n"
        "ModuleNotFoundError: No module named 'absent_module'"
    )
    assert caught.value.hint == "correct `warmup.imports`, or add the missing package"
    assert not list((local_cache / "environments").glob(f"*{rendered.digest.partition(':')[2]}*"))


def test_what_local_cannot_provide_is_said(write: Callable[..., Path]) -> None:
    """Debian packages, files at absolute paths, the image and limits are listed as not provided."""
    folder = write(
        _base=BASE,
        light="schema = 1\nname = 'light'\nextends = '_base'\n[system]\npackages = ['git']\n"
        "[[files]]\nsource = '_base.toml'\ntarget = '/opt/x'\n",
    )
    (variant,) = workflow.variants_called(Project.find(folder.parent), [])
    assert LocalTarget().unsupported(variant) == (
        "Debian packages of variants/light.toml: git",
        "files at absolute paths of variants/light.toml: /opt/x",
        "the base image localhost:1/python:3.13 and its service: Python comes from this machine",
        "limits: 2 CPUs and 1024 MiB are not enforced, and it is no security boundary",
    )


def test_python_that_is_not_here_blocks(write: Callable[..., Path]) -> None:
    """A variant for a Python that this machine lacks is blocked, with how to get it."""
    folder = write(
        _base=BASE.replace(">=3.11", "==3.29.*"),
        light="schema = 1\nname = 'light'\nextends = '_base'\n",
    )
    (variant,) = workflow.variants_called(Project.find(folder.parent), [])
    assert LocalTarget().blocked(variant) == (
        "no Python on this machine satisfies `base.python` ==3.29.*;"
        " `uv python install 3.29` installs one"
    )
