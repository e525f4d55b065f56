"""Environments and sandboxes of the target `local`."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from builder.project import Project
from builder.render import Rendered
from builder.sandbox.boundary import Boundary
from builder.system.isolation import Isolation
from builder.system.logs import Log
from builder.targets.local import launch, place
from builder.targets.local.confine.confinement import confinement
from builder.targets.local.kernel import KernelSandbox
from builder.targets.local.launch import zygote_of
from tests.conftest import BASE
from tests.support.clouds import Built, Place
from tests.support.here import build_here, copy_environment, put_module, results_of

SERVICE = "[service]\ncommand = ['run']\nready-url = 'http://localhost:1/'\n"


LIGHT = (
    "schema = 1\nname = 'light'\nextends = '_base'\n"
    "[python]\npackages = ['idna', 'python-dateutil', 'pyyaml; sys_platform != \"plan9\"']\n"
    "[warmup]\nlevel = 'memory'\nimports = ['idna', 'dateutil.parser']\n"
    "[env]\nHOUSE = '/root/.cache/house'\n" + SERVICE
)


def prepared(folder: Path) -> Rendered:
    """Lock and render the only variant of a project with uv."""
    project = Project.find(folder)
    (rendered,) = results_of(project).values()
    assert isinstance(rendered, Rendered)
    return rendered


@pytest.fixture(scope="session")
def light(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    folder = tmp_path_factory.mktemp("light")
    (folder / "variants").mkdir()
    (folder / "variants" / "_base.toml").write_text(BASE.replace("    ", ""))
    (folder / "variants" / "light.toml").write_text(LIGHT)
    return prepared(folder)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with Log(tmp_path / "logs", target="local") as log:
        yield log


@pytest.fixture
def ref(light: Rendered, log: Log, local_cache: Path) -> str:
    return build_here(light, log).ref


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def gone(pid: int, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not alive(pid)


LINUX = sys.platform == "linux"  # which alone forks and confines sandboxes
KINDS = ("cold", "forked", "unconfined", "unconfined cold")
BEST = "forked" if LINUX else "unconfined cold"
# Two of the kinds have each way to start a kernel, and each isolation; `soak` runs the other two.
KINDS_TRIED = [
    kind if kind in {"forked", "unconfined cold"} else pytest.param(kind, marks=pytest.mark.soak)
    for kind in KINDS
]


def opened(kind: str, light: Rendered, ref: str) -> KernelSandbox:
    """Open a sandbox whose kernel is started from scratch or forked, confined or not."""
    path = place.find_build(ref, name="light").path
    # This module keeps the folder in which it was imported.
    return opened_in(path, kind, warm=["multiprocessing.process"], digest=light.digest)


def opened_in(
    path: Path, kind: str, *, warm: Sequence[str], digest: str, env: Mapping[str, str] | None = None
) -> KernelSandbox:
    """Open a sandbox of this kind in an environment."""
    if not LINUX and kind != "unconfined cold":
        pytest.skip("only Linux forks and confines sandboxes")
    isolation: Isolation = "none" if kind.startswith("unconfined") else "confined"
    confined = confinement(path, Boundary(isolation=isolation))
    variables = env or {}
    zygote = None
    if not kind.endswith("cold"):
        view = confined.view if confined else None
        zygote = zygote_of(path, digest=digest, warm=warm, env=variables, view=view)
    return KernelSandbox(path, warm=(), env=variables, zygote=zygote, confined=confined)


@pytest.fixture(params=KINDS_TRIED)
def sandbox(request: pytest.FixtureRequest, light: Rendered, ref: str) -> Iterator[KernelSandbox]:
    """Yield a new sandbox of each kind."""
    with contextlib.closing(opened(request.param, light, ref)) as sandbox:
        yield sandbox


@pytest.fixture
def new_sandbox(light: Rendered, ref: str) -> Iterator[KernelSandbox]:
    """Yield a new sandbox of the kind that is opened sooner."""
    with contextlib.closing(opened(BEST, light, ref)) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def kept_sandboxes() -> Iterator[dict[str, KernelSandbox]]:
    """Yield what `kept_sandbox` keeps, by kind."""
    sandboxes: dict[str, KernelSandbox] = {}
    yield sandboxes
    for sandbox in sandboxes.values():
        sandbox.close()


@pytest.fixture(params=KINDS_TRIED)
def kept_sandbox(
    request: pytest.FixtureRequest,
    kept_sandboxes: dict[str, KernelSandbox],
    light: Rendered,
    ref: str,
) -> KernelSandbox:
    """Return the sandbox of each kind that the tests of a module share; a new one if a test has
    ended it."""
    kind: str = request.param
    sandbox = kept_sandboxes.get(kind)
    if sandbox and not sandbox.alive():
        sandbox.close()
        sandbox = None
    kept_sandboxes[kind] = sandbox or opened(kind, light, ref)
    return kept_sandboxes[kind]


@pytest.fixture
def local_one(
    built_on: Callable[..., Built], local_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Resolve templates with a registry that has `one`, built on this machine; return its path.
    Tests share it and change nothing in it."""
    registry = built_on("local", "one").folder / "registry.json"
    monkeypatch.setenv("TEMPLATE_REGISTRY", str(registry))
    return registry


def wait_for_prepared() -> None:
    """Wait until the sandboxes that are being prepared are."""
    for zygote in launch._zygotes.values():
        if made := zygote.spare._made:
            made.result(60)


def printed(sandbox: KernelSandbox, code: str) -> str:
    execution = sandbox.run(code, timeout=60)
    assert (execution.error, execution.stderr) == (None, "")
    return execution.stdout


def build(place: Place, extra: str = "") -> None:
    """Build the template `one` with a variable and `extra` lines in its spec."""
    place.edit("one", lambda text: f'{text}[env]\nHF_HOME = "/root/.cache/hf"\n{extra}')
    assert place.build("one", target="local")["one"].error is None


def with_module(project: Place, name: str, text: str) -> None:
    """Add a module to the environment of `one`, and import it at warm-up."""
    registry = project.folder / "registry.json"
    if not registry.exists():
        build(project)
    built = project.recorded("one", "local")["digest"].removeprefix("sha256:")
    # A copy, by a digest of its own, since other tests use the environment.
    digest = secrets.token_hex(32)
    environments = Path(os.environ["TEMPLATE_BUILDER_CACHE_DIR"]) / "environments"
    environment = environments / f"sha256-{digest}"
    copy_environment((environments / f"sha256-{built}").resolve(), environment)
    put_module(environment, name, text)
    records = registry.read_text().replace(built, digest)
    registry.write_text(records.replace('"idna"\n', f'"idna",\n              "{name}"\n'))
