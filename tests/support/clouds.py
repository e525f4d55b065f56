"""A project of four small templates, and builds of it on the stand-in for E2B."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from builder import render, workflow
from builder.plan import Plan
from builder.project import Project
from builder.runtime import CodeExecutionPrimitive
from builder.system.events import Event
from builder.targets.adapters import connect
from builder.workflow import BuildRequest, Context, Outcome, Prepared
from builder.workflow.carry_out import carry_out
from tests.support.e2b_server import Server
from tests.support.e2b_server.state import State

# As in E2B's image.
START_UP = '["sudo", "--preserve-env=E2B_LOCAL", "/root/.jupyter/start-up.sh"]'
# Packages that the tests' interpreter also has, since it runs the server's sandboxes.
FILES = {
    "_base": (
        'schema = 1\n[base]\nimage = "localhost:1/python:3.13"\npython = ">=3.11"\n'
        f'[service]\ncommand = {START_UP}\nready-url = "http://localhost:49999/health"\n'
    ),
    "_shared": 'schema = 1\nextends = "_base"\n[python]\npackages = ["packaging"]\n',
    "one": (
        'schema = 1\nname = "one"\nextends = "_shared"\n[python]\npackages = ["idna"]\n'
        '[warmup]\nlevel = "memory"\nimports = ["idna"]\n'
        '[[verify]]\nname = "a sum"\ncode = "print(1 + 1)"\nstdout = "2"\n'
    ),
    "two": 'schema = 1\nname = "two"\nextends = "_shared"\n[python]\npackages = ["certifi"]\n',
    "three": 'schema = 1\nname = "three"\nextends = "_base"\n[python]\npackages = ["pluggy"]\n',
    "four": 'schema = 1\nname = "four"\nextends = "_base"\n[python]\npackages = ["iniconfig"]\n',
}
Opened = Callable[..., CodeExecutionPrimitive]
NAMES = ("four", "one", "three", "two")


class Place:
    """A copy of the project, as on one machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events: list[Event] = []

    def project(self) -> Project:
        return Project.find(self.folder)

    def planned(self, *names: str, channel: str = "stable", force: bool = False) -> Plan:
        request = BuildRequest(names=names, channel=channel, frozen=True, force=force)
        planned = workflow.prepare(request, self._context("e2b"), workflow.PLAN).plan
        assert planned
        return planned

    def build(
        self,
        *names: str,
        target: str = "e2b",
        channel: str = "stable",
        force: bool = False,
        release: bool = False,
        require_cache: bool = False,
        jobs: int | None = None,
    ) -> dict[str, Outcome]:
        """Build as `build --frozen --precheck never` does, in this process."""
        request = BuildRequest(
            names=names,
            channel=channel,
            frozen=True,
            force=force,
            release=release,
            require_cache=require_cache,
            jobs=jobs,
        )
        context = self._context(target)
        prepared = workflow.prepare(request, context, workflow.PLAN)
        return self._carried_out(prepared, context)

    def carry_out(self, planned: Plan, *names: str) -> dict[str, Outcome]:
        """Carry out a plan made earlier."""
        context = self._context(planned.target)
        request = BuildRequest(names=names, channel=planned.channel, frozen=True)
        prepared = workflow.prepare(request, context, workflow.RENDER)
        return self._carried_out(replace(prepared, plan=planned), context)

    def _context(self, target: str) -> Context:
        project = self.project()
        settings = project.targets[target]
        adapter = connect(settings, project, report=self.events.append)
        return Context(
            project=project, settings=settings, target=adapter, report=self.events.append
        )

    @staticmethod
    def _carried_out(prepared: Prepared, context: Context) -> dict[str, Outcome]:
        outcomes = carry_out(prepared, context).outcomes
        return {outcome.name: outcome for outcome in outcomes}

    def recorded(self, name: str, target: str = "e2b") -> dict[str, Any]:
        """Return the record that a template's channel `stable` points at."""
        entry = json.loads((self.folder / "registry.json").read_text())["templates"][name][target]
        record: dict[str, Any] = entry["builds"][entry["channels"]["stable"]]
        return record

    def warnings(self) -> list[str]:
        return [event.text for event in self.events if event.kind == "warning"]

    def edit(self, stem: str, change: Callable[[str], str]) -> None:
        """Change a spec without changing its packages, and render it again."""
        path = self.folder / "variants" / f"{stem}.toml"
        path.write_text(change(path.read_text()))
        render_all(self.project(), frozen=True)

    def log(self, name: str) -> str:
        return max((self.folder / ".builder" / "logs" / name).glob("*.log")).read_text()


def render_all(project: Project, *, frozen: bool) -> None:
    """Lock and render all variants, and write them to `generated/`."""
    prepared = workflow.prepare(
        BuildRequest(frozen=frozen), Context(project=project), workflow.RENDER
    )
    assert prepared.complete, prepared.results
    render.write(prepared.rendered, project.generated, all_variants=True)


@pytest.fixture(scope="session")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lock and render the project, once for all tests."""
    folder = tmp_path_factory.mktemp("locked")
    (folder / "variants").mkdir()
    for stem, text in FILES.items():
        (folder / "variants" / f"{stem}.toml").write_text(text)
    render_all(Project.find(folder), frozen=False)
    return folder


@pytest.fixture
def places(locked: Path, tmp_path: Path) -> Callable[[str], Place]:
    """Return a function that makes a copy of the project with a name."""

    def make(name: str) -> Place:
        shutil.copytree(locked, tmp_path / name)
        return Place(tmp_path / name)

    return make


@pytest.fixture
def place(places: Callable[[str], Place]) -> Place:
    return places("place")


@pytest.fixture
def lead(monkeypatch: pytest.MonkeyPatch) -> Callable[[Server], Server]:
    """Point the SDK at a server."""

    def to(server: Server) -> Server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        return server

    return to


@pytest.fixture
def cloud(lead: Callable[[Server], Server]) -> Iterator[Server]:
    """Start a server whose steps take no time."""
    with Server() as server:
        yield lead(server)
        assert server.problems == []


@dataclass(frozen=True, kw_only=True)
class Built:
    """The project with templates built on a target, and the data of the server then."""

    folder: Path
    state: State
    result: Any

    def copy_to(self, place: Place, server: Server) -> None:
        """Have a project and a server as they are after the build."""
        shutil.copytree(self.folder, place.folder, dirs_exist_ok=True)
        server.state.copy(self.state)


@pytest.fixture(scope="session")
def built_by(
    locked: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Callable[[Place], Any]], Built]:
    """Return a function that has another one build, once for all tests."""

    @functools.cache
    def build(act: Callable[[Place], Any]) -> Built:
        folder = tmp_path_factory.mktemp("built") / "place"
        shutil.copytree(locked, folder)
        with Server() as server, pytest.MonkeyPatch.context() as patch:
            for name, value in server.environment.items():
                patch.setenv(name, value)
            patch.setenv("TEMPLATE_BUILDER_CACHE_DIR", str(cache))
            result = act(Place(folder))
            assert server.problems == []
            return Built(folder=folder, state=server.state, result=result)

    return build


@pytest.fixture(scope="session")
def built_on(built_by: Callable[[Callable[[Place], Any]], Built]) -> Callable[..., Built]:
    """Return a function that builds templates on a target, once for all tests."""

    @functools.cache
    def build(target: str, *names: str) -> Built:
        def act(place: Place) -> None:
            outcomes = place.build(*names, target=target)
            assert {outcome.error for outcome in outcomes.values()} == {None}

        return built_by(act)

    return build


@pytest.fixture
def with_four(place: Place, cloud: Server, built_on: Callable[..., Built]) -> None:
    """Have the template `four` built on the server."""
    built_on("e2b", "four").copy_to(place, cloud)


@pytest.fixture
def ready(
    place: Place,
    cloud: Server,
    built_on: Callable[..., Built],
    monkeypatch: pytest.MonkeyPatch,
) -> Server:
    """Start a server with the template `one`, which the project's registry resolves."""
    built_on("e2b", "one").copy_to(place, cloud)
    monkeypatch.setenv("TEMPLATE_REGISTRY", str(place.folder / "registry.json"))
    return cloud


@pytest.fixture(params=["local", "e2b"])
def target(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def open_one(
    target: str,
    place: Place,
    cloud: Server,
    built_on: Callable[..., Built],
    local_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Opened]:
    """Yield a function that returns a primitive of the template `one`, built on the target."""
    built_on(target, "one").copy_to(place, cloud)
    monkeypatch.setenv("TEMPLATE_REGISTRY", str(place.folder / "registry.json"))

    def make(**options: Any) -> CodeExecutionPrimitive:
        return CodeExecutionPrimitive(template_id="one", target=target, **options)

    yield make
    assert cloud.running == {}
