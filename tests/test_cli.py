from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builder import __version__, errors
from builder.doctor import examine
from tests.conftest import BASE, ROOT, Command

LIGHT = (
    "schema = 1\nname = 'light'\nextends = '_base'\n[python]\npackages = ['idna']\n"
    "[warmup]\nlevel = 'disk'\nimports = ['idna']\n"
    "[[verify]]\nname = 'a name is encoded'\n"
    "code = \"import idna; print(idna.encode('straße').decode())\"\nstdout = 'xn--strae-oqa'\n"
)
OTHER = "schema = 1\nname = 'other'\nextends = '_base'\n[python]\npackages = ['six']\n"


@pytest.fixture
def project(write: Callable[..., Path]) -> Path:
    return write(_base=BASE, light=LIGHT, other=OTHER).parent


def making(cache: Path) -> list[Path]:
    return list((cache / "environments").glob(".making-*"))


@pytest.mark.network
def test_the_main_job_end_to_end(project: Path, command: Command) -> None:
    """One command locks, renders, builds, verifies and records; then there is nothing to do; then a
    changed spec is built, because of that change, and the registry points at the new build."""
    built = command("build", cwd=project)
    assert built.returncode == 0, built.stderr
    assert built.stderr.startswith("target local: E2B_API_KEY is not set\n")
    lines = built.stdout.splitlines()
    assert re.fullmatch(
        r"template  result  ref +digest +packages  size +built in +first import", lines[0]
    )
    assert re.fullmatch(
        r"light     built   local:light@sha256-[0-9a-f]{12}…  [0-9a-f]{12}  1         [\d,]+ MiB"
        r"  \d+\.\d s +cold [\d.]+ (s|ms) → disk [\d.]+ (s|ms|µs)",
        lines[1],
    )
    assert lines[2].startswith("other     built   local:other@sha256-")
    resolved = command("resolve", "light", cwd=project).stdout.strip()
    assert resolved.startswith("local:light@sha256-")

    assert command("plan", "--frozen", "--exit-code", cwd=project).returncode == 0
    again = command("build", "--frozen", cwd=project)
    assert [line.split()[1] for line in again.stdout.splitlines()[1:]] == ["skipped", "skipped"]

    spec = project / "variants" / "light.toml"
    spec.write_text(spec.read_text() + "[resources]\ncpu = 4\n")
    plan = command("plan", "--frozen", "--exit-code", cwd=project)
    assert plan.returncode == errors.SOMETHING_TO_DO
    assert "`resources.cpu` changed: 2 → 4" in plan.stdout
    changed = command("build", "light", "--json", cwd=project)
    outcome = json.loads(changed.stdout)["outcomes"][0]
    assert (outcome["name"], outcome["action"], outcome["error"]) == ("light", "built", None)
    assert outcome["record"]["resources"] == {"cpu": 4, "memory_mb": 1024}
    now = command("resolve", "light", cwd=project).stdout.strip()
    assert now == outcome["ref"] != resolved
    assert (
        len(
            json.loads((project / "registry.json").read_text())["templates"]["light"]["local"][
                "builds"
            ]
        )
        == 2
    )

    verified = command("verify", "light", cwd=project)
    assert verified.returncode == 0, verified.stderr
    assert verified.stdout.splitlines()[0] == "light: 2 checks passed"
    log = command("logs", "light", cwd=project)
    assert "verify" in log.stderr + log.stdout or "a name is encoded" in log.stdout
    shown = json.loads(command("show", "light", "--json", cwd=project).stdout)
    assert shown["verified"]["checks"] == ["import idna", "a name is encoded"]
    listed = json.loads(command("list", "--json", cwd=project).stdout)
    assert [(row["name"], row["state"]) for row in listed] == [("light", "here"), ("other", "here")]


@pytest.mark.network
def test_failed_verification_records_nothing(project: Path, command: Command) -> None:
    """A variant that fails its check is not recorded, the others are, and the exit code says why."""
    spec = project / "variants" / "light.toml"
    spec.write_text(spec.read_text().replace("xn--strae-oqa", "strasse"))
    found = command("build", cwd=project)
    assert found.returncode == errors.VerifyError.exit_code
    assert (
        "error: `light` was built on `local` but is not what it promises:\n"
        "  check `a name is encoded` of variants/light.toml:"
        " expected 'strasse', got 'xn--strae-oqa'\n\n"
        "hint: nothing was recorded; `template-builder logs light` has the whole story\n"
    ) in found.stderr
    assert list(json.loads((project / "registry.json").read_text())["templates"]) == ["other"]


@pytest.mark.network
def test_several_failures_are_all_told(project: Path, command: Command) -> None:
    """Variants that fail in different ways are all named, under a code of its own."""
    (project / "variants" / "other.toml").write_text(OTHER.replace("'six'", "'six==0'"))
    spec = project / "variants" / "light.toml"
    spec.write_text(spec.read_text().replace("xn--strae-oqa", "strasse"))
    found = command("build", "--json", cwd=project)
    assert found.returncode == errors.SeveralFailuresError.exit_code
    answer, end = json.JSONDecoder().raw_decode(found.stdout)
    assert found.stdout[end:].strip() == ""
    assert {o["name"]: o["error"]["kind"] for o in answer["outcomes"]} == {
        "light": "VerifyError",
        "other": "LockConflictError",
    }


def test_invalid_spec_ends_with_its_code(project: Path, command: Command) -> None:
    """A mistake in a spec ends every command that reads it, with the report and code 4."""
    (project / "variants" / "light.toml").write_text("schema = 1\nnmae = 'x'\n")
    found = command("validate", cwd=project)
    assert (found.returncode, found.stdout) == (errors.SpecError.exit_code, "")
    assert (
        found.stderr
        == (
            "error: 2 problems in the variants:\n"
            "variants/light.toml: `name`: is missing (every variant without a leading `_` has one)\n"
            "variants/light.toml:2:1: `nmae`: unknown key (did you mean `name`?)\n"
        )
        or "unknown key (did you mean `name`?)" in found.stderr
    )
    machine = command("validate", "--json", cwd=project)
    assert json.loads(machine.stdout)["error"]["kind"] == "SpecError"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["plan", "lihgt"],
            5,
            "error: no variant is called `lihgt`; there are: light, other\n\nhint: did you mean `light`?\n",
        ),
        (
            ["plan", "variants/_base.toml"],
            5,
            "error: `variants/_base.toml` is a shared stage and never built alone\n",
        ),
        (
            ["plan", "--target", "lcoal"],
            30,
            "error: there is no target `lcoal`; there are: e2b, local\n\nhint: did you mean `local`?\n",
        ),
        (
            ["build", "--target", "e2b"],
            30,
            "target e2b: asked for\nerror: target `e2b` is not there yet: this version builds on"
            " `local` only\n\nhint: use `--target local`: no account and no Docker needed\n",
        ),
        (["build", "--frozen", "light"], 11, None),
        (["render", "--check"], 13, None),
        (["verify", "light"], 11, None),
        (["resolve", "light"], 40, None),
        (
            ["logs", "light"],
            5,
            "error: there is no log of `light`; there are logs of: nothing\n\nhint: a log is written by `template-builder build`\n",
        ),
        (["validate", "--bogus"], 64, None),
        (["bogus"], 64, None),
        (["build", "--jobs", "0"], 64, None),
        (
            ["validate", "--project", "nowhere"],
            3,
            "error: `nowhere` is not a project: it has no `variants` folder\n\nhint: name the folder that holds `variants` with --project\n",
        ),
    ],
)
def test_exit_codes(
    project: Path, command: Command, arguments: list[str], code: int, message: str | None
) -> None:
    """Every kind of failure ends with its own code and one paragraph, never with a traceback."""
    found = command(*arguments, cwd=project, TEMPLATE_REGISTRY=str(project / "registry.json"))
    assert found.returncode == code, found.stderr
    assert "Traceback" not in found.stderr
    if message is not None:
        assert found.stderr == message


def test_broken_registry_stops_the_build_before_the_work(project: Path, command: Command) -> None:
    """A registry that cannot be read is told before anything is resolved or built."""
    (project / "registry.json").write_text('{"version": 1, "templates"')
    found = command("build", cwd=project, UV_OFFLINE="1")
    assert found.returncode == errors.RegistryError.exit_code
    assert not (project / "generated").exists()
    (project / "registry.json").write_text('{"version": 2, "templates": {}}')
    newer = command("build", cwd=project, UV_OFFLINE="1")
    assert newer.returncode == errors.RegistryVersionError.exit_code


def test_no_network_ends_with_its_code(project: Path, command: Command, tmp_path: Path) -> None:
    """Without a network, build ends with NetworkError's code and records nothing."""
    found = command("build", cwd=project, UV_OFFLINE="1", UV_CACHE_DIR=str(tmp_path / "none"))
    assert found.returncode == errors.NetworkError.exit_code
    assert "no network: resolving stage `light` could not reach a package index" in found.stderr
    assert not (project / "registry.json").exists()


def test_key_that_is_set_is_not_printed(project: Path, command: Command) -> None:
    """With a key for e2b, the first line says what is used instead, and never the key."""
    found = command("plan", "--frozen", cwd=project, E2B_API_KEY="canary-key")
    assert found.stderr.splitlines()[0] == (
        "target local: E2B_API_KEY is set, but this version cannot build on e2b yet"
    )
    assert "canary" not in found.stderr + found.stdout
    looked = command("doctor", cwd=project, E2B_API_KEY="canary-key")
    assert "canary" not in looked.stderr + looked.stdout


def test_exit_codes_are_unique_and_documented() -> None:
    """No two kinds of failure share a code, and the docs list every one of them."""

    def tree(kind: type[errors.TemplateError]) -> list[type[errors.TemplateError]]:
        return [kind, *(found for child in kind.__subclasses__() for found in tree(child))]

    kinds = [k for k in tree(errors.TemplateError) if k.__module__ == "builder.errors"]
    codes = [k.exit_code for k in kinds if k is not errors.TemplateLookupError]
    assert len(set(codes)) == len(codes)
    assert not {0, errors.SOMETHING_TO_DO, errors.USAGE} & set(codes)
    page = (ROOT / "docs" / "commands.md").read_text()
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
    assert listed == {0, errors.SOMETHING_TO_DO, errors.USAGE, *codes}
    assert errors.__doc__
    assert all(kind.__name__ in errors.__doc__ for kind in kinds)


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder for temporary files, with a name that is short enough for sockets in it."""
    folder = Path(tempfile.mkdtemp())
    yield folder
    shutil.rmtree(folder)


def build_process(project: Path, cache: Path, scratch: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "builder", "build", "--force"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=project,
        env=os.environ | {"TEMPLATE_BUILDER_CACHE_DIR": str(cache), "TMPDIR": str(scratch)},
    )


def emptied(folder: Path, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while any(folder.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(folder.iterdir())


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


@pytest.mark.network
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_build_leaves_nothing(
    project: Path, tmp_path: Path, scratch: Path, sent: signal.Signals
) -> None:
    """Ctrl-C or `kill` at any moment: code 130, no process, no half environment, a whole registry,
    and the next run works."""
    cache = tmp_path / "cache"
    cache.mkdir()
    for pause in (0.4, 0.8, 1.2, 1.6, 2.2, 3.0):
        running = build_process(project, cache, scratch)
        time.sleep(pause)
        running.send_signal(sent)
        if pause > 1:  # an impatient person: the second one must not break into the cleaning up
            time.sleep(0.1)
            running.send_signal(sent)
        _, said = running.communicate(timeout=60)
        assert running.returncode in (130, 0), said
        assert "Traceback" not in said
        assert making(cache) == []
        assert processes_in(cache) == []
        assert list(scratch.iterdir()) == []
    again = build_process(project, cache, scratch)
    _, said = again.communicate(timeout=120)
    assert again.returncode == 0, said


@pytest.mark.network
def test_killed_build_is_taken_up_by_the_next(project: Path, tmp_path: Path, scratch: Path) -> None:
    """SIGKILL at any moment leaves what the next run cleans up, and a registry that reads."""
    cache = tmp_path / "cache"
    cache.mkdir()
    for pause in (0.5, 1.0, 1.5, 2.0, 2.6):
        running = build_process(project, cache, scratch)
        time.sleep(pause)
        running.kill()
        running.communicate()
        if (project / "registry.json").exists():
            json.loads((project / "registry.json").read_text())
        assert emptied(scratch)
    last = build_process(project, cache, scratch)
    _, said = last.communicate(timeout=120)
    assert last.returncode == 0, said
    assert making(cache) == []


@pytest.mark.network
def test_two_builds_at_once(project: Path, tmp_path: Path, scratch: Path) -> None:
    """Two builds of the same project at once both succeed, and every record is there."""
    cache = tmp_path / "cache"
    cache.mkdir()
    running = [build_process(project, cache, scratch) for _ in range(2)]
    ended = [process.communicate(timeout=180)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], ended
    assert set(json.loads((project / "registry.json").read_text())["templates"]) == {
        "light",
        "other",
    }


def test_output_that_nobody_reads_to_the_end(project: Path) -> None:
    """A reader that closes the pipe early, as `head` does, is no failure."""
    shell = f"{sys.executable} -m builder schema --json --project {project} | head -n 1"
    found = subprocess.run(
        ["bash", "-o", "pipefail", "-c", shell],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert "Traceback" not in found.stderr
    assert "Error" not in found.stderr


def test_doctor_tells_what_is_broken(project: Path, local_cache: Path) -> None:
    """doctor looks at everything at once and names what does not work."""
    (project / "registry.json").write_text("{")
    found = {finding.what: finding.state for finding in examine(project)}
    assert found["variants"] == "ok"
    assert found["uv"] == "ok"
    assert found["registry"] == "no"


def test_configured_targets_are_known(project: Path, command: Command) -> None:
    """Targets in pyproject.toml are known by name; a wrong key in them is told with its place."""
    settings = project / "pyproject.toml"
    settings.write_text('[tool.template-builder.targets.staging]\nkind = "local"\n')
    assert command("plan", "--frozen", "--target", "staging", cwd=project).returncode == 0
    settings.write_text('[tool.template-builder.targets.staging]\nknid = "local"\n')
    found = command("plan", cwd=project)
    assert found.returncode == errors.ProjectError.exit_code
    assert found.stderr == (
        f"error: {settings}: [tool.template-builder.targets.staging]: unknown key `knid`\n\n"
        "hint: did you mean `kind`?\n"
    )


def test_terminal_without_unicode(project: Path, command: Command) -> None:
    """Where the locale is plain ASCII, what cannot be shown is replaced, and nothing fails."""
    found = command(
        "validate", cwd=project, LC_ALL="POSIX", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0"
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines()[0] == "variants/light.toml: light (_base ? light): valid"


def test_working_directory_that_is_gone(tmp_path: Path) -> None:
    """In a folder that was removed, the command says so."""
    folder = tmp_path / "gone"
    folder.mkdir()
    shell = f"rmdir {folder}; exec {sys.executable} -m builder validate"
    found = subprocess.run(
        ["bash", "-c", shell],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert found.returncode == errors.ProjectError.exit_code
    assert found.stderr.endswith(
        "error: the working directory cannot be used: No such file or directory\n\n"
        "hint: change to a folder that exists\n"
    )


def test_version(command: Command) -> None:
    """--version names the program and its version."""
    assert command("--version").stdout == f"template-builder {__version__}\n"


def arguments(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def with_module(project: Path, source: str) -> None:
    """Let the variant `light` import a module of the test at its warm-up."""
    modules = project.parent / "modules"
    modules.mkdir()
    (modules / "odd_module.py").write_text(source)
    (project / "variants" / "light.toml").write_text(
        "schema = 1\nname = 'light'\nextends = '_base'\n"
        "[warmup]\nlevel = 'disk'\nimports = ['odd_module']\n"
        f"[env]\nPYTHONPATH = '{modules}'\n"
    )


@pytest.mark.network
@pytest.mark.parametrize(
    ("source", "failure"),
    [
        ("import atexit; atexit.register(lambda: print('bye'))", None),
        ("print('noise')", None),
        ("raise SystemExit(0)", "the interpreter ended before the last import"),
        ("import os; os._exit(0)", "the interpreter ended before the last import"),
        ("import builtins; builtins.print = lambda *a, **k: None", "an answer that is none: ''"),
    ],
)
def test_odd_warm_up_module_stops_no_other_variant(
    project: Path, command: Command, source: str, failure: str | None
) -> None:
    """Whatever a warm-up import does, it is told in a sentence, and the other variant is built."""
    with_module(project, source)
    found = command("build", cwd=project)
    assert "Traceback" not in found.stderr.replace("Traceback (most recent call last) ", "")
    templates = json.loads((project / "registry.json").read_text())["templates"]
    assert "other" in templates
    if failure:
        assert failure in found.stderr
        assert "light" not in templates


@pytest.mark.network
def test_process_that_a_warm_up_import_starts(project: Path, tmp_path: Path, scratch: Path) -> None:
    """A process that an import leaves behind neither holds up the build nor outlives it."""
    with_module(
        project,
        "import subprocess, sys\n"
        "code = 'import os, time; os.chdir(sys.argv[1]); time.sleep(1000)'\n"
        "code = 'import sys; ' + code\n"
        f"subprocess.Popen([sys.executable, '-c', code, {str(tmp_path / 'cache')!r}],"
        " start_new_session=True)\n",
    )
    (tmp_path / "cache").mkdir()
    start = time.monotonic()
    running = build_process(project, tmp_path / "cache", scratch)
    _, said = running.communicate(timeout=120)
    assert time.monotonic() - start < 100
    assert running.returncode == 0, said
    assert processes_in(tmp_path / "cache") == []


@pytest.mark.network
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_import_that_hangs_ends_with_the_builder(
    project: Path, tmp_path: Path, scratch: Path, sent: signal.Signals
) -> None:
    """An import that never ends is ended with the builder, whether that is asked to or killed."""
    with_module(project, "import time; time.sleep(1000)")
    cache = tmp_path / "cache"
    cache.mkdir()
    running = build_process(project, cache, scratch)
    deadline = time.monotonic() + 60
    while not any(b"warmup.json" in arguments(pid) for pid in processes_in(cache)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    running.send_signal(sent)
    running.communicate(timeout=30)
    deadline = time.monotonic() + 10
    while processes_in(cache) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_in(cache) == []


def test_interrupt_speaks(project: Path, tmp_path: Path, scratch: Path) -> None:
    """An interrupted command says so, to people and to machines."""
    (project / "variants" / "other.toml").unlink()
    running = subprocess.Popen(
        [sys.executable, "-m", "builder", "build", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=project,
        env=os.environ
        | {"TEMPLATE_BUILDER_CACHE_DIR": str(tmp_path / "cache"), "TMPDIR": str(scratch)},
    )
    assert running.stderr
    running.stderr.readline()
    running.send_signal(signal.SIGINT)
    out, said = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "error: interrupted; what was finished is recorded" in said
    assert json.loads(out)["error"]["kind"] == "InterruptedRunError"


@pytest.mark.network
def test_build_that_removes_itself_is_not_recorded(project: Path, command: Command) -> None:
    """A check that removes the environment it runs in leaves no record of a build that is gone."""
    (project / "variants" / "light.toml").write_text(
        "schema = 1\nname = 'light'\nextends = '_base'\n[[verify]]\nname = 'x'\n"
        "code = 'import shutil, sys; shutil.rmtree(sys.prefix)'\n"
    )
    found = command("build", "light", cwd=project)
    assert found.returncode == errors.BuildError.exit_code
    assert "is not there any more after its checks" in found.stderr
    assert not (project / "registry.json").exists()


def test_usage_error_for_machines(project: Path, command: Command) -> None:
    """A command line that cannot be read is told as JSON where that is asked for."""
    found = command("build", "--json", "--jobs", "0", cwd=project)
    assert found.returncode == errors.USAGE
    assert json.loads(found.stdout)["error"]["exit_code"] == errors.USAGE
