"""What code installs in a local sandbox is that sandbox's alone."""

from __future__ import annotations

import contextlib
import shutil
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from builder.project import Project
from builder.render import Rendered
from builder.system.logs import Log
from builder.targets.local import place
from builder.targets.local.confine.walls import HOME, VENV
from builder.targets.local.kernel import KernelSandbox
from tests.conftest import BASE
from tests.support.here import build_here, results_of
from tests.support.index_server import wheel
from tests.support.sandboxes import BEST, KINDS, LINUX, opened_in

pytestmark = pytest.mark.network
SPEC = "schema = 1\nname = '{name}'\nextends = '_base'\n[python]\npackages = {packages}\n"
# A forked kernel is led to what it installs in another way than one that is started anew. What
# watches over installs is the same in all kinds.
one_kind = pytest.mark.parametrize("opening", [BEST], indirect=True)
# Each way to start a kernel and each isolation, once.
two_kinds = pytest.mark.parametrize(
    "opening", [BEST, *(["unconfined cold"] if LINUX else [])], indirect=True
)
Opening = Callable[..., KernelSandbox]


def environment(folder: Path, cache: Path, packages: list[str]) -> Path:
    """Build an environment of these packages; its folder."""
    (folder / "variants").mkdir()
    (folder / "variants" / "_base.toml").write_text(textwrap.dedent(BASE))
    (folder / "variants" / "own.toml").write_text(SPEC.format(name="own", packages=packages))
    project = Project.find(folder)
    (rendered,) = results_of(project).values()
    assert isinstance(rendered, Rendered)
    with pytest.MonkeyPatch.context() as patch, Log(folder / "logs", target="local") as log:
        patch.setenv("TEMPLATE_BUILDER_CACHE_DIR", str(cache))
        build_here(rendered, log)
        return place.folder_of(rendered.digest)


@pytest.fixture(scope="module")
def with_pip(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    return environment(tmp_path_factory.mktemp("pip"), cache, ["pip", "uv", "six==1.16.0", "click"])


@pytest.fixture(scope="module")
def without_pip(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    return environment(tmp_path_factory.mktemp("bare"), cache, ["six"])


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """A folder that pip can install from."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for archive in (
        wheel("toolz", "1.0", toolz="V = 1\n"),
        *(wheel(f"way_{n}", "1", **{f"way_{n}": f"V = {n}\n"}) for n in range(len(WAYS))),
        wheel("six", "9.0", six="__version__ = '9.0'\n"),
        wheel("needs-six", "1.0", requires=["six"], needs_six="import six\n"),
    ):
        (folder / archive.filename).write_bytes(archive.content)
    return folder


@pytest.fixture(params=KINDS)
def opening(request: pytest.FixtureRequest, local_cache: Path, wheels: Path) -> Iterator[Opening]:
    """Open sandboxes of an environment, their kernels started anew or forked."""
    del local_cache
    with contextlib.ExitStack() as stack:

        def opened(folder: Path) -> KernelSandbox:
            links = str(wheels) if request.param.startswith("unconfined") else f"{HOME}/wheels"
            env = {
                "PIP_NO_INDEX": "1",
                "PIP_FIND_LINKS": links,
                "PIP_CONFIG_FILE": "/dev/null",
                "UV_NO_INDEX": "1",
                "UV_OFFLINE": "1",
                "UV_FIND_LINKS": links,
            }
            sandbox = opened_in(folder, request.param, warm=["six"], digest="sha256:0", env=env)
            shutil.copytree(wheels, sandbox.home / "wheels")
            stack.callback(sandbox.close)
            return sandbox

        yield opened


def printed(sandbox: KernelSandbox, code: str) -> str:
    execution = sandbox.run(code, timeout=60)
    assert execution.error is None, execution
    return execution.stdout


def files(folder: Path) -> dict[str, tuple[int, float]]:
    return {
        str(path): (path.lstat().st_size, path.lstat().st_mtime)
        for path in folder.rglob("*")
        if path.name != place.USED
    }


WAYS = (
    "%pip install -q {0}",
    "pip install -q {0}",
    "!pip install -q {0}",
    "!pip3 install {0} | tail -1",
    "!python -m pip install {0}",
    "import subprocess, sys\nsubprocess.run([sys.executable, '-m', 'pip', 'install', '{0}'])",
    "import subprocess; subprocess.run(['pip', 'install', '{0}'], check=True)",
    "%uv pip install -q {0}",
    "!uv pip install {0}",
    "from pip._internal.cli.main import main; main(['install', '-q', '{0}'])",
)
# Those that depend on how the interpreter was started: the rest only changes the command.
WAYS_ELSEWHERE = tuple(way for way in WAYS if way.startswith(("%pip", "import", "from")))


@pytest.mark.parametrize(
    ("opening", "ways"),
    [
        pytest.param(BEST, WAYS, id=BEST),
        *(
            pytest.param(kind, WAYS_ELSEWHERE, id=kind, marks=pytest.mark.slow)
            for kind in KINDS
            if LINUX and kind != BEST
        ),
    ],
    indirect=["opening"],
)
def test_installed_in_one_sandbox_only(
    with_pip: Path, opening: Opening, ways: Sequence[str]
) -> None:
    """What pip installs, however it is called, is imported at once in that sandbox; another one and
    the environment know nothing of it."""
    before = files(with_pip)
    first, second = opening(with_pip), opening(with_pip)
    for number, way in enumerate(ways):
        execution = first.run(f"import way_{number}", timeout=30)
        assert execution.error == f"ModuleNotFoundError: No module named 'way_{number}'"
        printed(first, way.format(f"way_{number}"))
        assert printed(first, f"import way_{number}; print(way_{number}.V)") == f"{number}\n"
    for other in (second, opening(with_pip)):
        execution = other.run("import way_0", timeout=30)
        assert execution.error == "ModuleNotFoundError: No module named 'way_0'"
    assert files(with_pip) == before


@pytest.mark.slow
@two_kinds
def test_newer_version_wins_where_it_was_installed(with_pip: Path, opening: Opening) -> None:
    """What the environment has counts as installed; a newer version that a sandbox installs is what
    it and its subprocesses import, and the environment's is back when that is uninstalled."""
    sandbox = opening(with_pip)
    assert "Requirement already satisfied: six" in printed(sandbox, "%pip install six")
    version = "import importlib.metadata as m; print(m.version('six'))"
    assert printed(sandbox, version) == "1.16.0\n"
    printed(sandbox, "%pip install -q --upgrade six needs-six")
    assert printed(sandbox, version) == "9.0\n"
    import_it = "import needs_six, click, six; print(needs_six.six.__version__)"
    assert printed(sandbox, f"!python -c '{import_it}'").strip() == "9.0"
    listed = printed(sandbox, "!pip list --format freeze")
    assert {"six==9.0", "needs-six==1.0"} <= set(listed.split())
    assert "click==" in listed
    assert printed(opening(with_pip), version) == "1.16.0\n"
    printed(sandbox, "%pip uninstall -q -y six")
    assert printed(sandbox, version) == "1.16.0\n"
    execution = sandbox.run("%pip uninstall -y click", timeout=60)
    assert "outside environment" in execution.stdout


@pytest.mark.slow
@two_kinds
def test_processes_that_code_starts_have_both(with_pip: Path, opening: Opening) -> None:
    """Workers of multiprocessing and programs of the environment find what the sandbox has
    installed; the interpreter says of itself that it is the sandbox's."""
    sandbox = opening(with_pip)
    printed(sandbox, "%uv pip install -q toolz")
    host = sandbox.home.parent / "venv"
    venv = Path(VENV) if sandbox.confined else host
    printout = printed(
        sandbox,
        "import os, site, sys, sysconfig\n"
        "print(sys.prefix, sys.exec_prefix, os.environ['VIRTUAL_ENV'], sep='\\n')\n"
        "print(sys.executable, sysconfig.get_path('purelib'), sep='\\n')",
    )
    (packages,) = host.glob("lib/*/site-packages")
    packages = venv / packages.relative_to(host)
    assert printout.splitlines() == [
        *[str(venv)] * 3, str(venv / "bin" / "python"), str(packages),
    ]  # fmt: skip
    for method in ("spawn", "forkserver"):
        code = (
            "import multiprocessing, toolz\n"
            f"with multiprocessing.get_context({method!r}).Pool(1) as pool:\n"
            "    print(pool.apply_async(eval, ('__import__(\"toolz\").V',)).get(60))"
        )
        assert printed(sandbox, code) == "1\n"
    printed(sandbox, "open('run_me.ipy', 'w').write('import toolz; print(f\"={toolz.V}=\")')")
    assert "=1=" in printed(sandbox, "!ipython --no-banner run_me.ipy")


@pytest.mark.slow
@one_kind
def test_failed_install_is_an_error(with_pip: Path, opening: Opening) -> None:
    """An install that fails is an error of the code with pip's last lines, and its exit status is
    kept; the session goes on."""
    sandbox = opening(with_pip)
    for command in (
        "%pip install -q absent",
        "pip install -q absent",
        "!pip install -q absent",
        "!pip install absent 2>&1 | tail -1",
        "!cd / && pip3 install absent",
    ):
        execution = sandbox.run(command, timeout=60)
        shown = command.lstrip("%!").removeprefix("cd / && ")
        assert execution.error is not None
        assert execution.error.startswith(f"InstallError: `{shown}` failed with exit status 1:\n")
        assert execution.error.endswith("ERROR: No matching distribution found for absent")
        assert "installs.py" not in execution.traceback
        assert printed(sandbox, "print(_exit_code)") == "1\n"


@pytest.mark.slow
@one_kind
def test_command_that_did_what_was_asked_is_no_error(with_pip: Path, opening: Opening) -> None:
    """What has installed all that was asked for, or was not to install anything, is no error."""
    sandbox = opening(with_pip)
    for command, expected in (
        ("!pip install -q six | grep -v x", ""),
        ("!pip show absent", "WARNING: Package(s) not found: absent"),
        ("!pip install absent || true", "No matching distribution"),
        ("!false", ""),
        ("name = 'six'\n!pip install {name}", "already satisfied: six"),
        ("def f(name):\n    !pip install {name}\nf('six')", "already satisfied: six"),
    ):
        assert expected in printed(sandbox, command)


@pytest.mark.slow
@one_kind
def test_installer_that_the_template_lacks_is_named(without_pip: Path, opening: Opening) -> None:
    """Where the template has no pip, an install says so and what to do."""
    sandbox = opening(without_pip)
    for module in ("pip", "uv"):
        for command in (f"%{module} install x", f"!python3 -m {module} install x"):
            execution = sandbox.run(command, timeout=60)
            assert execution.error is not None
            assert execution.error.endswith(
                f": No module named {module}\n"
                f"this template does not have {module}: add it to `packages` in its spec"
            )


@one_kind
def test_installers_of_the_host_are_out_of_reach(without_pip: Path, opening: Opening) -> None:
    """No name of an installer leads to the host's, and pip of the host, called by its path, is told
    to refuse what is outside of a virtual environment."""
    sandbox = opening(without_pip)
    venv = VENV if sandbox.confined else f"{sandbox.home.parent}/venv"
    for name in ("pip", "pip3", "uv", "pipx", "easy_install", "conda", "mamba", "micromamba"):
        execution = sandbox.run(f"!{name} install x", timeout=60)
        assert execution.error is not None
        assert f"`{name} install x` failed with exit status " in execution.error
        assert printed(sandbox, f"import shutil; print(shutil.which({name!r}))") == (
            f"{venv}/bin/{name}\n"
        )
    assert "uvx: this template does not have it" in sandbox.run("!uvx ruff", timeout=60).stdout
    assert printed(sandbox, "import os; print(os.environ['PIP_REQUIRE_VIRTUALENV'])") == "1\n"
