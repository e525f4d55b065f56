"""A project of four small variants, and building it on a server of ours."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from builder import workflow
from builder.plan import Plan
from builder.project import Project
from builder.runtime import CodeExecutionPrimitive
from builder.system.events import Event, discard
from builder.targets.adapters import choose, connect
from builder.workflow import Outcome
from tests.e2b_server import Server

# Packages that the interpreter of the tests has, too: sandboxes of the server run on it.
FILES = {
    "_base": (
        'schema = 1\n[base]\nimage = "localhost:1/python:3.13"\npython = ">=3.11"\n'
        '[service]\ncommand = ["serve"]\nready-url = "http://localhost:49999/health"\n'
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
    """One copy of the project, as on one machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events: list[Event] = []

    def project(self) -> Project:
        return Project.find(self.folder)

    def planned(self, *names: str, channel: str = "stable", force: bool = False) -> Plan:
        project = self.project()
        target = connect(choose(project, "e2b")[0], project)
        prepared = self._prepared(project, names)
        return workflow.make_plan(
            project, prepared, target, name="e2b", channel=channel, force=force
        )

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
        """What the command `build --frozen` does, in this process."""
        project = self.project()
        adapter = connect(choose(project, target)[0], project, report=self.events.append)
        prepared = self._prepared(project, names)
        planned = workflow.make_plan(
            project,
            prepared,
            adapter,
            name=target,
            channel=channel,
            force=force,
            release=release,
        )
        return self._carried_out(
            project,
            prepared,
            planned,
            adapter,
            release=release,
            jobs=jobs,
            all_variants=not names,
            require_cache=require_cache,
        )

    def carry_out(self, planned: Plan, *names: str) -> dict[str, Outcome]:
        """Carry out a plan that was made before."""
        project = self.project()
        adapter = connect(choose(project, planned.target)[0], project, report=self.events.append)
        prepared = self._prepared(project, names)
        return self._carried_out(project, prepared, planned, adapter, jobs=None, all_variants=False)

    def _carried_out(self, *what: Any, **how: Any) -> dict[str, Outcome]:
        outcomes = workflow.build(*what, **how, report=self.events.append)
        return {outcome.name: outcome for outcome in outcomes}

    @staticmethod
    def _prepared(project: Project, names: tuple[str, ...]) -> workflow.Prepared:
        variants = workflow.select(project, names)
        return workflow.prepare(project, variants, frozen=True, report=discard)

    def recorded(self, name: str, target: str = "e2b") -> dict[str, Any]:
        """The record that the channel `stable` of a template points at."""
        entry = json.loads((self.folder / "registry.json").read_text())["templates"][name][target]
        found: dict[str, Any] = entry["builds"][entry["channels"]["stable"]]
        return found

    def warnings(self) -> list[str]:
        return [event.text for event in self.events if event.kind == "warning"]

    def edit(self, stem: str, change: Callable[[str], str]) -> None:
        """Change a spec in a way that needs no other packages, and render it anew."""
        path = self.folder / "variants" / f"{stem}.toml"
        path.write_text(change(path.read_text()))
        project = self.project()
        from builder import render

        prepared = self._prepared(project, ())
        rendered = [one for one in prepared.values() if isinstance(one, render.Rendered)]
        assert len(rendered) == len(prepared), prepared
        render.write(rendered, project.generated, all_variants=True)

    def log(self, name: str) -> str:
        return max((self.folder / ".builder" / "logs" / name).glob("*.log")).read_text()


@pytest.fixture(scope="session")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project, locked and rendered once for all tests."""
    folder = tmp_path_factory.mktemp("locked")
    (folder / "variants").mkdir()
    for stem, text in FILES.items():
        (folder / "variants" / f"{stem}.toml").write_text(text)
    project = Project.find(folder)
    variants = workflow.select(project, ())
    prepared = workflow.prepare(project, variants, frozen=False, report=discard)
    from builder import render

    rendered = [one for one in prepared.values() if isinstance(one, render.Rendered)]
    assert len(rendered) == len(FILES) - 2, prepared
    render.write(rendered, project.generated, all_variants=True)
    return folder


@pytest.fixture
def places(locked: Path, tmp_path: Path) -> Callable[[str], Place]:
    """Make a copy of the project, by name."""

    def make(name: str) -> Place:
        shutil.copytree(locked, tmp_path / name)
        return Place(tmp_path / name)

    return make


@pytest.fixture
def place(places: Callable[[str], Place]) -> Place:
    return places("place")


@pytest.fixture
def lead(monkeypatch: pytest.MonkeyPatch) -> Callable[[Server], Server]:
    """Have the SDK speak to a server."""

    def to(server: Server) -> Server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        return server

    return to


@pytest.fixture
def cloud(lead: Callable[[Server], Server]) -> Iterator[Server]:
    """A server on which every step takes no time at all."""
    with Server() as server:
        yield lead(server)
        assert server.problems == []


@pytest.fixture
def ready(place: Place, cloud: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server with the template `one`, resolved by the project's registry."""
    place.build("one")
    monkeypatch.setenv("TEMPLATE_REGISTRY", str(place.folder / "registry.json"))
    cloud.front.requests.clear()
    cloud.created = 0
    return cloud


@pytest.fixture(params=["local", "e2b"])
def target(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def open_one(
    target: str, place: Place, cloud: Server, local_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Opened]:
    """A primitive of the template `one`, built on the target; at the end nothing of it is left."""
    assert place.build("one", target=target)["one"].action in ("built", "reused")
    monkeypatch.setenv("TEMPLATE_REGISTRY", str(place.folder / "registry.json"))

    def make(**options: Any) -> CodeExecutionPrimitive:
        return CodeExecutionPrimitive(template_id="one", target=target, **options)

    yield make
    assert cloud.running == {}
