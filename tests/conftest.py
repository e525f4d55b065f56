"""What the tests share: throw-away projects, and caches that leave the user's alone."""

from __future__ import annotations

import gc
import os
import subprocess
import textwrap
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

pytest.register_assert_rewrite("tests.support")

from tests.support.program import run_program  # noqa: E402 - after what says how it is loaded

pytest_plugins = [
    f"tests.support.{name}"
    for name in (
        "options",
        "clouds",
        "content_server",
        "hub_server",
        "object_store",
        "pages",
        "sandboxes",
        "webhooks",
    )
]

ROOT = Path(__file__).parent.parent
BASE = """
    schema = 1
    [base]
    image = "localhost:1/python:3.13"
    python = ">=3.11"
"""

# Python reads the path of an editable installation in the encoding of the locale.
ASCII_LOCALE = pytest.mark.skipif(
    not str(ROOT).isascii(), reason="this Python cannot start in an ASCII locale"
)

# How long an example takes tells how busy the machine is, not whether it is right.
hypothesis.settings.register_profile("any speed", deadline=None, max_examples=50)
hypothesis.settings.load_profile("any speed")

LIGHT = (
    "schema = 1\nname = 'light'\nextends = '_base'\n[python]\npackages = ['idna']\n"
    "[warmup]\nlevel = 'disk'\nimports = ['idna']\n"
    "[[verify]]\nname = 'a name is encoded'\n"
    "code = \"import idna; print(idna.encode('straße').decode())\"\nstdout = 'xn--strae-oqa'\n"
)
OTHER = "schema = 1\nname = 'other'\nextends = '_base'\n[python]\npackages = ['six']\n"


# Their tests share what takes long to make.
WHOLE_MODULES = {
    "tests/escape/test_escapes.py",
    *(
        f"tests/e2e/test_{name}.py"
        for name in (
            "checks",
            "code_as_in_python",
            "e2b_server_steps",
            "examples",
            "extras",
            "interrupted_code",
            "local_installs",
            "rebuilds",
            "reseed",
            "tracebacks",
            "warmup",
        )
    ),
}


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Switch the garbage collector off while tests are collected, where it takes a fifth of the
    time."""
    gc.disable()
    collected = yield
    gc.freeze()
    gc.enable()
    return collected


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the slowest tests first, so that no process is left with one of them at the end."""
    items.sort(key=_rank)


def _rank(item: pytest.Item) -> int:
    if item.get_closest_marker("soak"):
        return 0
    markers = {mark.name for mark in item.iter_markers()}
    takes_long = markers & {"slow", "docker"} or _module(item.nodeid) in WHOLE_MODULES
    return 1 if takes_long else 2


def _module(nodeid: str) -> str:
    return nodeid.partition("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Give each test to a process that is free."""
    return WholeModules(config, log)


class WholeModules(LoadScopeScheduling):  # type: ignore[misc] # not typed
    """Gives all tests of a module that shares an environment or sandboxes to one process, and each
    other test to a process that is free."""

    def _split_scope(self, nodeid: str) -> str:
        return path if (path := _module(nodeid)) in WHOLE_MODULES else nodeid


@pytest.fixture(autouse=True)
def _first_layers(request: pytest.FixtureRequest, shared: Path) -> None:
    """Build the layers that all templates begin with, before the engine builds a template."""
    markers = {mark.name for mark in request.node.iter_markers()}
    if markers >= {"docker", "network"}:
        from tests.support.prechecks import keep_first_layers

        keep_first_layers(shared / "first-layers")


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write the files of a project's variants folder; returns that folder."""

    def write_files(**files: str) -> Path:
        folder = tmp_path / "project" / "variants"
        folder.mkdir(parents=True, exist_ok=True)
        for stem, text in files.items():
            (folder / f"{stem}.toml").write_text(textwrap.dedent(text), encoding="utf-8")
        return folder

    return write_files


@pytest.fixture
def project(write: Callable[..., Path]) -> Path:
    """A project of two light variants."""
    return write(_base=BASE, light=LIGHT, other=OTHER).parent


@pytest.fixture(autouse=True)
def _not_interrupted() -> None:
    """An interrupt that a test made in this process is not one of the next test."""
    from builder.system import processes

    with processes.interruptible():
        pass


@pytest.fixture(scope="session", autouse=True)
def _clean_environment() -> Iterator[None]:
    """No variable of the person who runs the tests may change what they prove."""
    own = (
        "TEMPLATE_TARGET",
        "TEMPLATE_REGISTRY",
        "TEMPLATE_BUILDER_CACHE_DIR",
        "E2B_API_KEY",
        "E2B_API_URL",
        "E2B_DEBUG",
        "E2B_DOMAIN",
        "E2B_SANDBOX_URL",
    )
    # In a git hook these lead to the repository that the hook belongs to.
    of_git = [name for name in os.environ if name.startswith("GIT_")]
    with pytest.MonkeyPatch.context() as patch:
        for name in (*own, *of_git):
            patch.delenv(name, raising=False)
        patch.setenv("COLUMNS", "200")
        yield


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all processes that run tests."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def byte_code(shared: Path) -> Path:
    """The byte code of packages, compiled once for all processes that run tests."""
    folder = shared / "byte-code"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory, byte_code: Path) -> Path:
    """An environment cache for the whole test run, so that one environment serves many tests."""
    folder = tmp_path_factory.mktemp("cache")
    (folder / "byte-code").symlink_to(byte_code)
    return folder


@pytest.fixture
def new_cache(tmp_path: Path, byte_code: Path) -> Path:
    """A cache for one test, without environments, but with the byte code of packages."""
    folder = tmp_path / "new-cache"
    folder.mkdir()
    (folder / "byte-code").symlink_to(byte_code)
    return folder


@pytest.fixture
def local_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same cache, in force for this test."""
    monkeypatch.setenv("TEMPLATE_BUILDER_CACHE_DIR", str(cache))
    return cache


Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def command(tmp_path: Path, cache: Path) -> Command:
    """Run `template-builder` as a person would, in a process of its own."""

    def run(
        *arguments: object, cwd: Path | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"TEMPLATE_BUILDER_CACHE_DIR": str(cache)} | variables
        return run_program([*map(str, arguments)], cwd=cwd or tmp_path, env=environment)

    return run


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that nobody else has anything in."""
    monkeypatch.setenv("TEMPLATE_BUILDER_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"
