"""What verification says of numbers that sandboxes of one snapshot draw at random."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from builder import record
from builder.errors import VerifyError
from builder.registry.model import Contents
from tests.conftest import Command
from tests.support.clouds import Place
from tests.support.e2b_server import ModelledSteps, Server

pytestmark = pytest.mark.network
NOT_COMPARED = (
    "the random numbers of two sandboxes were not compared: the build is from a version that did"
    " not reseed sandboxes; rebuild it"
)


class Unwarmed(ModelledSteps):
    """Steps whose images hold none of the files that were copied into them."""

    def run(self, layer: Any, *arguments: Any) -> Any:
        super().run(layer, *arguments)
        return layer


@pytest.mark.slow
def test_generators_that_stay_the_same_fail_verification(place: Place, cloud: Server) -> None:
    """A build whose sandboxes would all draw the same from a generator is not recorded, and the
    generator is named, even where a library keeps the collector from seeing it."""
    same = 'imports = ["idna"]\nreseed = "import random; random.seed(1)"\n'
    place.edit("one", lambda text: text.replace('imports = ["idna"]\n', same))
    error = place.build("one")["one"].error
    assert isinstance(error, VerifyError)
    assert error.message.splitlines()[1:] == [
        "  the random number generator `random._inst` draws the same numbers in every sandbox:"
        " reseed it in `warmup.reseed`"
    ]
    assert cloud.running == {}


@pytest.mark.slow
def test_interpreter_that_was_not_warmed_fails_verification(
    place: Place, lead: Callable[[Server], Server]
) -> None:
    """A build at level memory whose code runs in another interpreter than the warm one is not
    recorded."""
    with Server(Unwarmed()) as server:
        lead(server)
        error = place.build("one")["one"].error
    assert isinstance(error, VerifyError)
    assert error.message.splitlines()[1:] == [
        "  the random numbers of two sandboxes cannot be compared: `/opt/template/warmup.py` did not"
        " warm the interpreter that runs code; does `service.command` start that interpreter first?"
    ]


@pytest.mark.slow
def test_build_of_an_earlier_version_is_verified_with_a_warning(
    place: Place, cloud: Server, command: Command
) -> None:
    """Of a build that has nothing to reseed copies with, verification says that they were not
    compared, and logs it."""
    assert place.build("one")["one"].error is None
    (template,) = cloud.state.templates.values()
    template.builds[-1].machine = []

    def older(data: Contents) -> None:
        entry = data.templates["one"]["e2b"]
        build = entry.builds[entry.channels["stable"]]
        files = {
            path: value for path, value in build.inputs["files"].items() if path != "reseed.py"
        }
        older_build = replace(build, inputs={**build.inputs, "files": files})
        entry.builds[entry.channels["stable"]] = older_build

    record.update(place.folder / "registry.json", older)
    done = command("verify", "one", "--target", "e2b", "--json", cwd=place.folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["one"]["warnings"] == [NOT_COMPARED]
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert [event["text"] for event in events if event["kind"] == "warning"] == [NOT_COMPARED]
    assert f"warning: {NOT_COMPARED}\n" in place.log("one")
