from __future__ import annotations

import dataclasses
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.errors import NetworkError, TemplateError
from builder.lock import Lock, StageLock
from builder.lock.resolve import lock_latest
from builder.render import Rendered, render
from builder.system.events import Event
from builder.system.logs import Log
from builder.targets.local import place
from tests.support.here import build_here
from tests.support.index_server import Failure, IndexServer, Wheel, answers, served, sha256, wheel
from tests.support.samples import load

DEFAULT_INDEX, CPU_INDEX = "/simple", "/whl/cpu"
MAC = ("macosx_11_0_arm64", "macosx_10_12_x86_64")
OTHERS = ("manylinux_2_17_x86_64", "manylinux_2_17_aarch64", "win_amd64")


def torch(version: str, platforms: tuple[str, ...], built_for: str, *requires: str) -> list[Wheel]:
    """A release of PyTorch: a wheel for each platform, with a module that says what it is."""
    source = f"built_for = {built_for!r}\n"
    return [
        wheel("torch", version, f"py3-none-{p}", requires=requires, torch=source) for p in platforms
    ]


CUDA = [
    wheel("nvidia-cublas", "13.0", f"py3-none-{p}") for p in OTHERS if p.startswith("manylinux")
]
EINOPS = wheel("einops", "0.8.0", requires=["torch"])
SYMPY = wheel("sympy", "1.14.0")
# As PyTorch is published: for Linux the default index has the CUDA build alone, and the index of
# CPU builds marks them by a local version, except those for macOS.
TORCH = torch("2.9.0", MAC + OTHERS, "cuda", "sympy", "nvidia-cublas; sys_platform == 'linux'")
TORCH_CPU = torch("2.9.0+cpu", OTHERS, "cpu", "sympy")
TORCH_MAC = torch("2.9.0", MAC, "cpu", "sympy")
INDEXES = {
    DEFAULT_INDEX: [*TORCH, *CUDA, SYMPY, EINOPS, wheel("ipykernel", "7.0.0")],
    CPU_INDEX: [*TORCH_CPU, *TORCH_MAC],
}

# An image with a digest, for which no registry is asked.
BASE = f"""
    schema = 1
    [base]
    image = "localhost:1/python@sha256:{"a" * 64}"
    python = ">=3.11"
"""
SHARED = """
    schema = 1
    extends = "_base"
    [python]
    packages = ["torch"]
    torch-backend = "cpu"
"""
PLAIN = """
    schema = 1
    name = "plain"
    extends = "_torch"
    [warmup]
    level = "disk"
    imports = ["torch"]
"""
CHILD = """
    schema = 1
    name = "child"
    extends = "_torch"
    [python]
    packages = ["einops"]
"""
NOTE = (
    '`torch-backend = "cpu"`: that index could not be reached; PyTorch is taken from the default'
    " index (on Linux the CUDA build, a download of several GB)"
)


def entry(pin: str, *wheels: Wheel) -> str:
    """What a lock says of one package."""
    hashes = sorted(sha256(one.content) for one in wheels)
    return " \\\n".join([pin, *(f"    --hash=sha256:{one}" for one in hashes)]) + "\n"


CPU_TEXT = (
    entry("sympy==1.14.0", SYMPY)
    + entry("torch==2.9.0 ; sys_platform == 'darwin'", *TORCH_MAC)
    + entry("torch==2.9.0+cpu ; sys_platform != 'darwin'", *TORCH_CPU)
)
DEFAULT_TEXT = (
    entry("nvidia-cublas==13.0 ; sys_platform == 'linux'", *CUDA)
    + entry("sympy==1.14.0", SYMPY)
    + entry("torch==2.9.0", *TORCH)
)
EINOPS_TEXT = entry("einops==0.8.0", EINOPS)


def stage(
    stem: str, package: str, text: str, backend: str | None, wanted: str | None = "cpu"
) -> StageLock:
    return StageLock(
        stem=stem,
        requirements=(package,) if package else (),
        text=text,
        torch_wanted=wanted,
        torch_backend=backend,
    )


class Locked:
    """The variants `plain` and `child`, which share the stage `_torch`, locked anew."""

    def __init__(self, folder: Path, index: IndexServer) -> None:
        self.index = index
        self.variants = load(folder, _base=BASE, _torch=SHARED, plain=PLAIN, child=CHILD)
        self.events: list[Event] = []
        self.results: dict[str, Lock | TemplateError] = lock_latest(
            list(self.variants.values()), folder=folder / "variants", report=self.events.append
        )

    def lock(self, name: str) -> Lock:
        """The lock of a variant that must have one."""
        found = self.results[name]
        assert isinstance(found, Lock), found
        return found

    def rendered(self, name: str) -> Rendered:
        """What the lock of that variant renders to."""
        return render(self.variants[name], self.lock(name))


@pytest.fixture(scope="module")
def reached(tmp_path_factory: pytest.TempPathFactory) -> Locked:
    """Locked while every index answered."""
    folder = tmp_path_factory.mktemp("reached")
    with served(folder, INDEXES) as index:
        return Locked(folder, index)


@pytest.fixture(scope="module")
def backend(reached: Locked) -> str:
    """The host of PyTorch's own index, learnt from what uv asked it for."""
    (host,) = reached.index.hosts(f"{CPU_INDEX}/")
    return host


@pytest.fixture(scope="module")
def fallen(tmp_path_factory: pytest.TempPathFactory, backend: str) -> Locked:
    """Locked while the default index answered and PyTorch's own could not be connected to."""
    folder = tmp_path_factory.mktemp("fallen")
    with served(folder, INDEXES) as index:
        index.down[backend] = "no route"
        return Locked(folder, index)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[IndexServer]:
    with served(tmp_path, INDEXES) as index:
        yield index


def test_stage_is_locked_to_the_backends_builds(reached: Locked) -> None:
    """Where PyTorch's index answers, the stage is locked to its builds, each with its hashes."""
    assert reached.lock("plain").stages == (
        stage("_base", "", "", None, wanted=None),
        stage("_torch", "torch", CPU_TEXT, "cpu"),
        stage("plain", "", "", "cpu"),
    )


def test_child_stage_keeps_the_backend(reached: Locked) -> None:
    """A stage that adds a package keeps the shared PyTorch and adds nothing but that package."""
    assert reached.lock("child").stages[1:] == (
        stage("_torch", "torch", CPU_TEXT, "cpu"),
        stage("child", "einops", EINOPS_TEXT, "cpu"),
    )
    assert reached.lock("child").packages == {
        "einops": "0.8.0",
        "sympy": "1.14.0",
        "torch": "2.9.0 | 2.9.0+cpu",
    }


def test_backend_that_answers_is_nothing_to_report(reached: Locked) -> None:
    """A lock that is what the spec asked for has no note and causes no event."""
    assert (reached.lock("plain").notes, reached.lock("child").notes) == ((), ())
    assert reached.events == []


def test_each_index_is_asked_for_its_own(reached: Locked, backend: str) -> None:
    """PyTorch is asked of its own index alone; what it needs, of the default index alone."""
    (default,) = reached.index.hosts(f"{DEFAULT_INDEX}/")
    assert default != backend
    assert set(reached.index.tunnels) == {backend, default}
    assert not reached.index.paths(f"{DEFAULT_INDEX}/torch/")
    assert not reached.index.paths(f"{CPU_INDEX}/sympy/")


def test_rendered_files_name_no_index(reached: Locked, backend: str) -> None:
    """No file that is rendered from a lock names the hosts and URLs that it came from."""
    (default,) = reached.index.hosts(f"{DEFAULT_INDEX}/")
    places = (backend, default, CPU_INDEX, "127.0.0.1", "https:")
    files = {file.path: file.content.decode() for file in reached.rendered("child").files}
    assert [(path, p) for path, text in files.items() for p in places if p in text] == []


def installs(rendered: Rendered) -> list[str]:
    """The last arguments of every `uv pip install` of the Dockerfile."""
    dockerfile = rendered.content("Dockerfile").decode()
    return re.findall(r"--compile-bytecode \\\n +(.*) \\\n", dockerfile)


def test_dockerfile_installs_from_the_backend(reached: Locked) -> None:
    """The Dockerfile names the backend in the install line of every stage locked to it."""
    folder = "/opt/template/requirements"
    assert installs(reached.rendered("child")) == [
        f"--requirement {folder}/_torch.txt --torch-backend=cpu",
        f"--requirement {folder}/child.txt --torch-backend=cpu",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("failure", ["no route", "hangs up", "silent", "untrusted", "503", "403"])
def test_backend_out_of_reach_falls_back(
    tmp_path: Path,
    index: IndexServer,
    backend: str,
    monkeypatch: pytest.MonkeyPatch,
    failure: Failure,
) -> None:
    """However PyTorch's index fails, the chain falls back to the default index and says so."""
    index.down[backend] = failure
    monkeypatch.setenv("UV_HTTP_TIMEOUT", "2")
    locked = Locked(tmp_path, index).lock("child")
    assert locked.stages[1:] == (
        stage("_torch", "torch", DEFAULT_TEXT, None),
        stage("child", "einops", EINOPS_TEXT, None),
    )
    assert locked.notes == (NOTE,)


@pytest.mark.slow
def test_fallback_is_reported_once(fallen: Locked) -> None:
    """Two variants that share the stage that fell back have the note each and cause one warning."""
    assert (fallen.lock("plain").notes, fallen.lock("child").notes) == ((NOTE,), (NOTE,))
    assert [(event.kind, event.variant, event.text) for event in fallen.events] == [
        ("warning", None, NOTE)
    ]


def test_fallback_says_what_it_costs(tmp_path: Path, index: IndexServer, backend: str) -> None:
    """Where the index knows how large its files are, the fallback's note and template.toml have the
    sum for Linux on x86-64, without a download."""
    sizes = {"manylinux_2_17_x86_64": 2_000_000_000, "manylinux_2_17_aarch64": 9_000_000_000}
    large = [
        dataclasses.replace(one, size=sizes.get(one.filename.split("-")[-1][:-4]))
        for one in INDEXES[DEFAULT_INDEX]
    ]
    index.answers |= dict(answers({DEFAULT_INDEX: large}))
    index.says_sizes = True
    index.down[backend] = "no route"
    found = Locked(tmp_path, index)
    cost = 2 * 2_000_000_000 + len(SYMPY.content)  # torch, nvidia-cublas and sympy
    assert found.lock("plain").stages[1].fallback_bytes == cost
    assert found.lock("plain").notes == (
        '`torch-backend = "cpu"`: that index could not be reached; PyTorch is taken from the default'
        " index (on Linux on x86-64 the CUDA build, a download of 4.00 GB)",
    )
    assert f"fallback-bytes = {cost}\n" in found.rendered("plain").content("template.toml").decode()
    assert [p for p in index.paths(f"{DEFAULT_INDEX}/files/") if p.endswith(".whl")] == []


@pytest.mark.slow
def test_fallback_is_rendered_without_backend(fallen: Locked) -> None:
    """After a fallback no install line of the Dockerfile names the backend."""
    folder = "/opt/template/requirements"
    assert installs(fallen.rendered("child")) == [
        f"--requirement {folder}/_torch.txt",
        f"--requirement {folder}/child.txt",
    ]


@pytest.mark.slow
def test_backend_is_given_up_once(fallen: Locked, backend: str) -> None:
    """An index out of reach is tried twice by the stage that needs it first, and by none below."""
    assert fallen.index.tunnels.count(backend) == 2
    assert fallen.index.paths(f"{DEFAULT_INDEX}/einops/")


@pytest.mark.parametrize("failure", ["no route", "silent", "untrusted", "503"])
def test_no_index_at_all_is_a_network_error(
    tmp_path: Path, index: IndexServer, monkeypatch: pytest.MonkeyPatch, failure: Failure
) -> None:
    """With every index out of reach, each variant's result is one error that names the stage."""
    index.all_down = failure
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("UV_HTTP_TIMEOUT", "1")
    locked = Locked(tmp_path, index)
    first_lines = {
        name: (type(result), str(result).partition("\n")[0])
        for name, result in locked.results.items()
    }
    message = "no network: resolving stage `_torch` could not reach a package index"
    assert first_lines == {"plain": (NetworkError, message), "child": (NetworkError, message)}
    assert locked.events == []


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    monkeypatch.setenv("TEMPLATE_BUILDER_CACHE_DIR", str(tmp_path / "cache"))
    with Log(tmp_path / "logs", target="local") as log:
        yield log


def built_for(rendered: Rendered, log: Log) -> str:
    """Build on this machine, and ask the PyTorch that is installed there what it is."""
    build_here(rendered, log)
    found = place.find(rendered.digest)
    assert found
    code = "import torch; print(torch.built_for)"
    return subprocess.run(
        [found.path / "bin" / "python", "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.mark.slow
def test_local_build_installs_the_backends_build(
    index: IndexServer, reached: Locked, log: Log
) -> None:
    """A lock with a backend is installed from that backend's index, by hash, on this machine."""
    assert built_for(reached.rendered("plain"), log) == "cpu"
    assert not index.paths(f"{DEFAULT_INDEX}/torch/")


@pytest.mark.slow
def test_local_build_installs_the_default_build(
    index: IndexServer, fallen: Locked, backend: str, log: Log
) -> None:
    """A lock that fell back is installed from the default index; the backend is not asked again."""
    assert built_for(fallen.rendered("plain"), log) == "cuda"
    assert backend not in index.tunnels


@pytest.mark.slow
def test_local_build_of_a_chain_with_two_sources(
    tmp_path: Path, index: IndexServer, reached: Locked, fallen: Locked, backend: str, log: Log
) -> None:
    """A chain of which one stage alone has a backend is installed stage by stage from its own."""
    lock = fallen.lock("plain")
    base = stage("_base", "sympy", entry("sympy==1.14.0", SYMPY), "cpu")
    text = DEFAULT_TEXT.replace(entry("sympy==1.14.0", SYMPY), "")
    torch_stage = stage("_torch", "torch", text, None)
    mixed = dataclasses.replace(lock, stages=(base, torch_stage, lock.stages[2]))
    index.down[backend] = "no route"
    assert built_for(render(fallen.variants["plain"], mixed), log) == "cuda"


@pytest.mark.slow
def test_local_build_needs_no_index_for_what_is_cached(
    tmp_path: Path,
    index: IndexServer,
    reached: Locked,
    log: Log,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What uv has in its cache is installed without a network, another time and elsewhere."""
    assert built_for(reached.rendered("plain"), log) == "cpu"
    index.all_down = "no route"
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("TEMPLATE_BUILDER_CACHE_DIR", str(tmp_path / "elsewhere"))
    asked = len(index.requests)
    assert built_for(reached.rendered("plain"), log) == "cpu"
    assert len(index.requests) == asked


def test_local_build_takes_no_other_build(
    tmp_path: Path,
    index: IndexServer,
    reached: Locked,
    backend: str,
    log: Log,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Installing what PyTorch's index does not give is a network error, never another build."""
    index.down[backend] = "no route"
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with pytest.raises(NetworkError) as caught:
        built_for(reached.rendered("plain"), log)
    assert caught.value.message.partition("\n")[0] == (
        "no network: `uv pip install` could not reach a package index"
    )
    assert not list((tmp_path / "cache" / "environments").iterdir())
