from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import errors
from tests.conftest import Command
from tests.support.program import Running, start_program


def making(cache: Path) -> list[Path]:
    """Folders of environments that no build leads to."""
    entries = list((cache / "environments").glob("*"))
    serving = {path.resolve() for path in entries if path.is_symlink()}
    return [path for path in entries if not path.is_symlink() and path.resolve() not in serving]


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder for temporary files, with a name that is short enough for sockets in it."""
    folder = Path(tempfile.mkdtemp())
    yield folder
    shutil.rmtree(folder)


def build_process(project: Path, cache: Path, scratch: Path, *arguments: str) -> Running:
    variables = {"TEMPLATE_BUILDER_CACHE_DIR": str(cache), "TMPDIR": str(scratch)}
    command = ["build", "--force", *arguments]
    return start_program(command, cwd=project, env=os.environ | variables)


def left_in(folder: Path, seconds: float = 120) -> list[Path]:
    """What is still in a folder when it had that long to be emptied."""
    deadline = time.monotonic() + seconds
    while any(folder.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return [*folder.rglob("*")]


def processes_in(folder: Path) -> list[int]:
    """The processes whose working directory is below `folder`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if str((entry / "cwd").readlink()).startswith(str(folder)):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def reach(running: Running, stage: str) -> None:
    """Wait until a build reports a stage, and then until it is in the middle of it."""
    assert running.stderr
    for line in running.stderr:
        if stage in line:
            time.sleep(0.1)
            return
    raise AssertionError(f"the build ended before {stage!r}")


def share_byte_code(cache: Path, byte_code: Path) -> None:
    """Let further builds use the byte code that is already compiled."""
    own = cache / "byte-code"
    if own.exists():
        own.rename(cache / "byte-code-before")
    own.symlink_to(byte_code)


STAGES = (
    "target local",
    "making the environment",
    "installing the locked packages",
    "compiling them",
    "warming up the disk",
    "opening a sandbox",
    "a name is encoded",
)


@pytest.mark.slow
@pytest.mark.network
def test_interrupted_build_leaves_nothing(
    project: Path, tmp_path: Path, scratch: Path, byte_code: Path
) -> None:
    """After Ctrl-C or `kill` at any moment, the exit code is 130, no process or partial environment
    is left, the registry is whole, and the next run works."""
    cache = tmp_path / "cache"
    cache.mkdir()
    for number, stage in enumerate(STAGES):
        # One build is interrupted, or two side by side.
        sent, names = (signal.SIGTERM, []) if number % 2 else (signal.SIGINT, ["light"])
        running = build_process(project, cache, scratch, *names)
        reach(running, stage)
        running.send_signal(sent)
        if number > 2:  # an impatient person: the second one must not break into the cleaning up
            time.sleep(0.1)
            running.send_signal(sent)
        _, said = running.communicate(timeout=120)
        assert running.returncode in (130, 0), said
        assert "Traceback" not in said
        assert making(cache) == []
        assert processes_in(cache) == []
        assert list(scratch.iterdir()) == []
        if stage == "compiling them":
            share_byte_code(cache, byte_code)
    again = build_process(project, cache, scratch)
    _, said = again.communicate(timeout=120)
    assert again.returncode == 0, said


@pytest.mark.network
def test_killed_build_is_taken_up_by_the_next(
    project: Path, tmp_path: Path, scratch: Path, byte_code: Path
) -> None:
    """After SIGKILL at any moment, the registry is readable, and the next run cleans up."""
    (project / "variants" / "other.toml").unlink()
    cache = tmp_path / "cache"
    cache.mkdir()
    for stage in STAGES[1::2]:
        running = build_process(project, cache, scratch)
        reach(running, stage)
        running.kill()
        running.communicate()
        if (project / "registry.json").exists():
            json.loads((project / "registry.json").read_text())
        if stage == "compiling them":
            share_byte_code(cache, byte_code)
    last = build_process(project, cache, scratch)
    _, said = last.communicate(timeout=120)
    assert last.returncode == 0, said
    assert making(cache) == []
    assert left_in(scratch) == []


@pytest.mark.slow
@pytest.mark.network
def test_two_builds_at_once(project: Path, new_cache: Path, scratch: Path) -> None:
    """Two builds of the same project at once both succeed, and every record is there."""
    running = [build_process(project, new_cache, scratch) for _ in range(2)]
    ended = [process.communicate(timeout=180)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], ended
    assert set(json.loads((project / "registry.json").read_text())["templates"]) == {
        "light",
        "other",
    }


def arguments(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def with_module(project: Path, source: str, name: str = "light") -> None:
    """Let a variant import a module of the test at its warm-up."""
    modules = project.parent / f"modules-of-{name}"
    modules.mkdir()
    (modules / "odd_module.py").write_text(source)
    (project / "variants" / f"{name}.toml").write_text(
        f"schema = 1\nname = '{name}'\nextends = '_base'\n"
        "[warmup]\nlevel = 'disk'\nimports = ['odd_module']\n"
        f"[env]\nPYTHONPATH = '{modules}'\n"
    )


ODD_MODULES = {
    "says-bye": "import atexit; atexit.register(lambda: print('bye'))",
    "prints": "print('noise')",
    "exits": "raise SystemExit(0)",
    "ends": "import os; os._exit(0)",
    "silences": "import builtins; builtins.print = lambda *a, **k: None",
}


@pytest.mark.slow
@pytest.mark.network
def test_odd_warm_up_module_stops_no_other_variant(project: Path, command: Command) -> None:
    """Whatever a warm-up import does, the error says it in a sentence, and the other variants are
    built."""
    (project / "variants" / "light.toml").unlink()
    for name, source in ODD_MODULES.items():
        with_module(project, source, name)
    done = command("build", cwd=project, TEMPLATE_ISOLATION="none")
    assert "Traceback" not in done.stderr.replace("Traceback (most recent call last) ", "")
    hint = "  hint: correct `warmup.imports`, or add the missing package\n"
    failed = f"fail in the new environment:\nthe interpreter ended before the last import\n{hint}"
    silent = f"odd_module fail in a sandbox: its answer cannot be read: ''\n{hint}"
    assert done.stderr.endswith(
        f"error: 3 templates failed:\n`ends`: the warm-up imports {failed}"
        f"`exits`: the warm-up imports {failed}`silences`: the warm-up imports {silent}"
    )
    templates = json.loads((project / "registry.json").read_text())["templates"]
    assert set(templates) == {"other", "prints", "says-bye"}


@pytest.mark.slow
@pytest.mark.network
def test_process_that_a_warm_up_import_starts(
    project: Path, new_cache: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that an import leaves behind neither holds up the build nor outlives it."""
    # Behind walls, the module would not be seen.
    monkeypatch.setenv("TEMPLATE_ISOLATION", "none")
    (project / "variants" / "other.toml").unlink()
    with_module(
        project,
        "import subprocess, sys\n"
        "code = 'import os, time; os.chdir(sys.argv[1]); time.sleep(1000)'\n"
        "code = 'import sys; ' + code\n"
        f"subprocess.Popen([sys.executable, '-c', code, {str(new_cache)!r}],"
        " start_new_session=True)\n",
    )
    start = time.monotonic()
    running = build_process(project, new_cache, scratch)
    _, said = running.communicate(timeout=120)
    assert time.monotonic() - start < 100
    assert running.returncode == 0, said
    assert processes_in(new_cache) == []


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_import_that_hangs_ends_with_the_builder(
    project: Path, new_cache: Path, scratch: Path, sent: signal.Signals
) -> None:
    """An import that never ends is ended with the builder, whether that is asked to or killed."""
    (project / "variants" / "other.toml").unlink()
    with_module(project, "import time; time.sleep(1000)")
    running = build_process(project, new_cache, scratch)
    deadline = time.monotonic() + 120
    while not any(b"warmup.json" in arguments(pid) for pid in processes_in(new_cache)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    running.send_signal(sent)
    running.communicate(timeout=120)
    deadline = time.monotonic() + 120
    while processes_in(new_cache) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_in(new_cache) == []


def test_interrupt_speaks(project: Path, tmp_path: Path, scratch: Path) -> None:
    """An interrupted command says so, to people and to machines."""
    (project / "variants" / "other.toml").unlink()
    running = build_process(project, tmp_path / "cache", scratch, "--json")
    assert running.stderr
    running.stderr.readline()
    running.send_signal(signal.SIGINT)
    out, said = running.communicate(timeout=120)
    assert running.returncode == 130
    assert (
        "error: interrupted; finished builds are recorded, and unfinished ones were removed here"
        in said
    )
    assert json.loads(out)["error"]["kind"] == "InterruptedRunError"


@pytest.mark.slow
@pytest.mark.network
def test_build_that_removes_itself_is_not_recorded(project: Path, command: Command) -> None:
    """A check that removes the environment it runs in leaves no record of a build that is gone."""
    (project / "variants" / "light.toml").write_text(
        "schema = 1\nname = 'light'\nextends = '_base'\n[[verify]]\nname = 'x'\n"
        "code = '''"
        "import ipykernel, os, pathlib, shutil\n"
        "environment = pathlib.Path(ipykernel.__file__).parents[4]\n"
        "for folder, _, _ in os.walk(environment): os.chmod(folder, 0o755)\n"
        "shutil.rmtree(environment)"
        "'''\n"
    )
    # Behind walls, no check can.
    build = command("build", "light", cwd=project, TEMPLATE_ISOLATION="none")
    assert build.returncode == errors.BuildError.exit_code
    assert "is not on this machine" in build.stderr
    assert "a check that removes its own environment also causes this" in build.stderr
    assert not (project / "registry.json").exists()
