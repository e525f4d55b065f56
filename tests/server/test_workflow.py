from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from builder.errors import BuildError
from builder.project import Project
from builder.workflow import EACH, PLAN, PREPARE, BuildRequest, Context, execute, prepare
from builder.workflow.carry_out import carry_out
from tests.support.clouds import Place
from tests.support.e2b_server import Server

OPENED: list[str] = []


@contextmanager
def opened() -> Iterator[list[str]]:
    """The paths that are opened in the `with` block."""
    if not OPENED:  # a hook cannot be taken away again
        sys.addaudithook(lambda name, of: OPENED.append(str(of[0])) if name == "open" else None)
    before = len(OPENED)
    paths: list[str] = []
    yield paths
    paths += OPENED[before:]


def test_sequence_reads_as_a_build_goes() -> None:
    """The stages stand in one tuple for all variants and one for each, in the order of a build."""
    names = [stage.__name__ for stage in (*PREPARE, *EACH)]
    prepare_all = ["select", "look_up_parents", "lock", "render", "plan", "precheck"]
    assert names == [*prepare_all, "build", "verify", "publish", "record"]


def test_each_stage_is_fed_the_result_of_the_one_before(tmp_path: Path) -> None:
    """Stages run in their order, on what the one before gave; what a stage raises ends the run."""
    context = Context(project=Project(root=tmp_path))

    def failing(value: int, _context: Context) -> int:
        raise BuildError(f"no {value}")

    stages = [lambda value, _context: value + 1, lambda value, _context: value * 10]
    assert execute(stages, 1, context) == 20
    with pytest.raises(BuildError, match=r"^no 2$"):
        execute([stages[0], failing, stages[1]], 1, context)


def test_stages_that_are_left_out_leave_nothing(place: Place, cloud: Server) -> None:
    """With the first stage of a variant alone, it is built, and neither published nor recorded."""
    project = place.project()
    context = Context.choose(project, "e2b", report=place.events.append)
    prepared = prepare(BuildRequest(names=["four"], frozen=True), context, PLAN)
    (outcome,) = carry_out(prepared, context, EACH[:1]).outcomes
    (build,) = cloud.builds("four")
    assert (outcome.action, outcome.build) == ("built", None)
    assert outcome.ref == f"{build.template_id}:{build.id}"
    assert "stable" not in cloud.tags("four")
    assert not Path(project.registry).exists()


@pytest.mark.slow
def test_registry_is_read_once_a_run_and_once_at_each_commit(place: Place, cloud: Server) -> None:
    """Nothing to do for two variants reads it once; a build reads it once more, when it records."""
    path = str(place.folder / "registry.json")
    place.build("four", "three")
    with opened() as paths:
        outcomes = place.build("four", "three")
    assert {outcome.action for outcome in outcomes.values()} == {"skipped"}
    assert paths.count(path) == 1
    place.edit("four", lambda text: f'{text}[env]\nA = "1"\n')
    with opened() as paths:
        assert place.build("four")["four"].action == "built"
    assert paths.count(path) == 2
