from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import uv

from builder.project import Project
from builder.render import Rendered
from builder.system.logs import Log
from builder.targets.local import place
from tests.conftest import BASE
from tests.support.here import build_here, results_of

pytestmark = pytest.mark.network
PORT = 59173


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """An environment with IPython, and the files of the template."""

    python: Path
    rendered: Rendered

    def script(self, *, state: Path, port: int) -> str:
        """Return warmup.py with two changes: the folder and the port of a test instead of those that
        an image has to itself."""
        text = self.rendered.content("warmup.py").decode()
        return text.replace("/tmp/template-warmup", str(state)).replace(str(PORT), str(port))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Prepared:
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "variants").mkdir()
    (folder / "variants" / "_base.toml").write_text(textwrap.dedent(BASE))
    command = [sys.executable, "-m", "http.server", str(PORT), "--bind", "127.0.0.1"]
    (folder / "variants" / "light.toml").write_text(
        "schema = 1\nname = 'light'\nextends = '_base'\n[python]\npackages = ['idna']\n"
        "[warmup]\nlevel = 'memory'\nimports = ['idna']\n"
        f"[service]\ncommand = {command!r}\nready-url = 'http://127.0.0.1:{PORT}/'\n",
    )
    (rendered,) = results_of(Project.find(folder)).values()
    assert isinstance(rendered, Rendered)
    with pytest.MonkeyPatch.context() as patch, Log(folder / "logs", target="local") as log:
        patch.setenv("TEMPLATE_BUILDER_CACHE_DIR", str(cache))
        build_here(rendered, log)
        environment = place.find(rendered.digest)
    assert environment
    return Prepared(python=environment.path / "bin" / "python", rendered=rendered)


@pytest.fixture
def image(prepared: Prepared, tmp_path: Path, port: int) -> Iterator[Image]:
    """What a memory-level image would hold: an interpreter with IPython, and warmup.py."""
    script = tmp_path / "warmup.py"
    script.write_text(prepared.script(state=tmp_path / "state", port=port))
    (tmp_path / "reseed.py").write_bytes(prepared.rendered.content("reseed.py"))
    warm_image = Image(python=prepared.python, script=script, home=tmp_path / "home")
    warm_image.home.mkdir()
    yield warm_image
    warm_image.stop()


class Image:
    """The parts of an image that warm-up is about."""

    def __init__(self, *, python: Path, script: Path, home: Path) -> None:
        self.python, self.script, self.home = python, script, home
        self.service: subprocess.Popen[bytes] | None = None

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.python, *words],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.home,
            env={"HOME": str(self.home), "PATH": "/usr/bin:/bin"},
        )

    def serve(self) -> None:
        self.service = subprocess.Popen(
            [self.python, self.script, "serve"],
            cwd=self.home,
            env={"HOME": str(self.home), "PATH": "/usr/bin:/bin"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def stop(self) -> None:
        if self.service:
            self.service.kill()
            self.service.wait()

    def warm(self, *, first: str = "%cd ~") -> list[str]:
        """Start an interpreter as the service does: of `idna` and the names that warmup.py has,
        those that its second execution sees."""
        look = "import sys; print(*({'idna'} & {*sys.modules}), *({'warm', 'progress'} & {*dir()}))"
        lines = f"--InteractiveShellApp.exec_lines={[first]!r}"
        done = self.run("-m", "IPython", "--no-banner", lines, "-c", look)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()[-1].split()

    def ready(self) -> subprocess.CompletedProcess[str]:
        return self.run(str(self.script), "ready")

    def has_begun(self) -> bool:
        """Wait until `serve` has made what the first interpreter looks for."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if (self.script.parent / "state" / "todo").exists():
                return True
            time.sleep(0.1)
        return False


@pytest.mark.slow
def test_first_interpreter_alone_is_warmed(image: Image) -> None:
    """The first interpreter of the service imports, later ones do not, and no name is left."""
    assert image.run(str(image.script), "install").returncode == 0
    image.serve()
    assert image.has_begun()
    assert [image.warm() for _ in range(3)] == [["idna"], [], []]


@pytest.mark.slow
def test_interpreter_answers_before_it_is_warmed(image: Image) -> None:
    """An interpreter imports nothing at its start, which its first execution sees, nor before that
    execution has ended."""
    image.run(str(image.script), "install")
    image.serve()
    assert image.has_begun()
    first = "import sys; open('first', 'w').write(str('idna' in sys.modules))"
    assert image.warm(first=first) == ["idna"]
    assert (image.home / "first").read_text() == "False"


@pytest.mark.slow
def test_ready_means_up_and_warm(image: Image) -> None:
    """The ready check fails before the service has an interpreter, before that is warm, and where
    the service does not answer."""
    image.run(str(image.script), "install")
    cold = "ready: no interpreter of the service has started to warm up\n"
    assert (image.ready().returncode, image.ready().stderr) == (1, cold)
    image.serve()
    assert image.has_begun()
    assert (image.ready().returncode, image.ready().stderr) == (1, cold)
    assert image.warm() == ["idna"]
    assert (image.ready().returncode, image.ready().stderr) == (0, "")
    image.stop()
    refused = image.ready()
    assert refused.returncode == 1
    assert refused.stderr.startswith("ready: ")


@pytest.mark.slow
def test_restart_warms_again(image: Image) -> None:
    """A service that is started again is not ready until its new first interpreter is warm."""
    image.run(str(image.script), "install")
    image.serve()
    assert image.has_begun()
    assert image.warm() == ["idna"]
    image.stop()
    image.serve()
    assert image.has_begun()
    assert image.ready().returncode == 1
    assert image.warm() == ["idna"]
    assert image.ready().returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            "raise ValueError('out of order')",
            "importing odd failed: ValueError: out of order",
        ),
        ("raise SystemExit(7)", "importing odd failed: SystemExit: 7"),
        ("import os; os._exit(1)", "importing odd ended the interpreter"),
    ],
)
def test_failed_warm_up_is_never_ready(image: Image, module: str, message: str) -> None:
    """A module that cannot be imported keeps the sandbox from being ready, with a status of its
    own: the ready check names the module, what it raised, and where the spec asks for it."""
    (image.home / "odd.py").write_text(module)
    image.script.write_text(image.script.read_text().replace('["idna"]', '["json", "odd"]'))
    image.run(str(image.script), "install")
    image.serve()
    assert image.has_begun()
    lines = "--InteractiveShellApp.exec_lines=['%cd ~']"
    image.run("-m", "IPython", "--no-banner", lines, "-c", "pass")
    found = image.ready()
    assert found.stderr == f"`warmup.imports` of variants/light.toml: {message}\n"
    assert found.returncode == 3


@pytest.mark.slow
def test_interpreter_outside_the_service_is_left_alone(image: Image) -> None:
    """Where nobody serves, an interpreter starts as if there were no warm-up."""
    image.run(str(image.script), "install")
    assert image.warm() == []


def test_unknown_task_is_refused(image: Image) -> None:
    """A task that warmup.py does not have is answered with those that it has."""
    found = image.run(str(image.script), "dusk")
    assert (found.returncode, found.stderr) == (1, "usage: warmup.py disk|install|serve|ready\n")


# The interpreter is copied as a snapshot does it: in the middle of its life, all of its memory.
COPIES = """
import contextlib, io, json, os, sys
from IPython.terminal.ipapp import TerminalIPythonApp

app = TerminalIPythonApp.instance()
app.initialize(["--no-banner", "--colors=NoColor"])
shell = app.shell
for code in ("%cd -q /", "import os; os.environ['A'] = 'b'"):  # the service's own
    shell.run_cell(code, silent=True)

def copy(*cells):
    reading, writing = os.pipe()
    if os.fork() == 0:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            for cell in cells:
                shell.run_cell(cell)
        os.write(writing, said.getvalue().encode())
        os._exit(0)
    os.close(writing)
    with open(reading) as file:
        return file.read()

code = "import idna, random; print('idna', random.random(), getattr(idna, 'own', None))"
again = "random.seed(1); print(random.random()); random.seed(1)", "print(random.random())"
print(json.dumps([copy(code), copy(code), copy(code, *again)]))
"""


def copies(image: Image) -> list[str]:
    image.run(str(image.script), "install")
    state = image.script.parent / "state"
    state.mkdir()
    (state / "todo").touch()
    done = image.run("-c", COPIES)
    assert done.returncode == 0, done.stderr
    answer: list[str] = json.loads(done.stdout.splitlines()[-1])
    return answer


def own(image: Image, code: str) -> Path:
    path = image.script.parent / "warmup_reseed.py"
    path.write_text(code)
    return path


@pytest.mark.slow
def test_first_execution_in_a_copy_reseeds(image: Image) -> None:
    """The first execution that somebody sends to a copy of the warm interpreter finds generators
    with seeds of its own, those after it find what the code has made of them; what the service
    executes for itself does not count."""
    own(image, "import idna, os\nidna.own = os.urandom(8).hex()\n")
    first, second, third = copies(image)
    drawn = [text.splitlines()[0].split() for text in (first, second, third)]
    assert [words[0] for words in drawn] == ["idna"] * 3
    assert len({words[1] for words in drawn}) == 3
    assert len({words[2] for words in drawn}) == 3
    assert third.splitlines()[1:] == ["0.13436424411240122"] * 2


@pytest.mark.slow
def test_copy_that_cannot_reseed_runs_nothing(image: Image) -> None:
    """Where the template's own code fails, code is refused with what failed, each time."""
    own(image, "import idna\nidna.seed()\n")
    first, _, third = copies(image)
    refused = (
        "WarmupReseedError: `warmup.reseed` fails in the sandbox: AttributeError: module 'idna' has"
        " no attribute 'seed'"
    )
    assert refused in first
    assert "idna 0." not in first
    assert third.count(refused) == 3


PACKAGES = ["matplotlib", "threadpoolctl", "huggingface_hub"]
TOO_LATE = {
    "OPENBLAS_NUM_THREADS": "1",
    "MPLBACKEND": "svg",
    "MPLCONFIGDIR": "/tmp/elsewhere",
    "HF_HOME": "/elsewhere",
    "HF_ENDPOINT": "http://elsewhere",
    "HF_HUB_OFFLINE": "1",
    "PYTHONHASHSEED": "0",
}
OBEYED = {"HF_TOKEN": "token", "HTTPS_PROXY": "http://proxy:1"}
LOOK = """
import json, os, sys
moment, variables = sys.argv[1], json.loads(sys.argv[2])
if moment == "before": os.environ.update(variables)
import urllib.request
import huggingface_hub, matplotlib, matplotlib.pyplot, numpy, threadpoolctl
from huggingface_hub import constants
if moment == "after": os.environ.update(variables)
print(json.dumps({
    "OPENBLAS_NUM_THREADS": str(threadpoolctl.threadpool_info()[0]["num_threads"]),
    "MPLBACKEND": matplotlib.get_backend(),
    "MPLCONFIGDIR": matplotlib.get_configdir(),
    "HF_HOME": constants.HF_HOME,
    "HF_ENDPOINT": constants.ENDPOINT,
    "HF_HUB_OFFLINE": str(int(constants.HF_HUB_OFFLINE)),
    "PYTHONHASHSEED": str(sys.flags.hash_randomization),
    "HF_TOKEN": huggingface_hub.get_token(),
    "HTTPS_PROXY": urllib.request.getproxies().get("https"),
}))
"""


@pytest.mark.slow
def test_variables_that_a_warm_interpreter_has_read(tmp_path: Path) -> None:
    """The variables that the docs say are too late after the warm-up change nothing then, those that
    they say are obeyed are; before it all count but Python's own."""
    tool, python = uv.find_uv_bin(), str(tmp_path / "bin" / "python")
    subprocess.run([tool, "venv", "--quiet", tmp_path], check=True)
    words = [tool, "pip", "install", "--quiet", "--python", python, *PACKAGES]
    subprocess.run(words, check=True)
    outside = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}

    def seen(moment: str) -> dict[str, str]:
        words = [python, "-W", "ignore", "-c", LOOK, moment, json.dumps(TOO_LATE | OBEYED)]
        # Two threads, on a machine of one processor, too, until the variable says one.
        env = outside | ({} if moment == "before" else {"OPENBLAS_NUM_THREADS": "2"})
        done = subprocess.run(words, check=True, capture_output=True, text=True, env=env)
        variables: dict[str, str] = json.loads(done.stdout)
        return variables

    never, after, before = seen("never"), seen("after"), seen("before")
    assert {name: after[name] for name in TOO_LATE} == {name: never[name] for name in TOO_LATE}
    assert {name: after[name] for name in OBEYED} == OBEYED
    expected = TOO_LATE | {"PYTHONHASHSEED": never["PYTHONHASHSEED"]}
    assert {name: before[name] for name in TOO_LATE} == expected
