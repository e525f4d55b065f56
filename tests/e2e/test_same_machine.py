from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from builder.flatten import flatten
from builder.precheck.engine import DockerEngine
from builder.project import PrecheckSettings
from builder.system.events import discard
from builder.system.logs import Log
from tests.support import engine
from tests.support.engine import config_of
from tests.support.prechecks import lightened


@pytest.mark.docker
@pytest.mark.network
@pytest.mark.parametrize(
    "kinds",
    [("data", "ml"), pytest.param(("nlp", "vision"), marks=pytest.mark.soak)],
    ids=" and ".join,
)
def test_templates_are_the_same_machine(
    write: Callable[..., Path], tmp_path: Path, kinds: tuple[str, ...]
) -> None:
    """For the product's templates, on small packages, Docker's image and E2B's steps agree: every
    path, mode, owner and content, the environment, user, folder, and what a sandbox starts."""
    entry = '[[files]]\nsource = "tool.sh"\ntarget = "/opt/tools/tool"\nmode = "0755"\n'
    settings = PrecheckSettings(network="host")
    docker = DockerEngine(settings)
    base = engine.base_image()
    known = config_of(base)
    files = {"data": entry, "_torch": entry.replace("/opt/", "/home/user/")}
    names = [f"tta-{kind}-minimal" for kind in kinds]
    for one in (each for each in lightened(write, files) if each.variant.name in names):
        context = tmp_path / one.variant.name
        for file in one.files:
            path = context / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file.content)
        start = engine.moment()
        text = one.content("Dockerfile").decode()
        program = flatten(text, files=[file.path for file in one.files])
        with Log(tmp_path / "logs", target="test") as log:
            image = docker.build(
                one, tag=f"{engine.LABEL}/{one.variant.name}", report=discard, log=log
            )
        with (
            engine.running(base, network="host") as ours,
            engine.running(image.identity) as theirs,
        ):
            machine = engine.Machine(ours, known.env)
            machine.carry_out(program, context)
            found = engine.differences(engine.tree(theirs, start), engine.tree(ours, start))
            assert found == []
            assert machine.env == dict(image.env)
            assert (machine.user, machine.workdir) == (image.user, image.workdir)
            started = machine.bash(
                f"python3() {{ printf '%s ' \"$@\"; }}; {program.start_command}".replace(
                    "exec ", ""
                ),
                user=machine.user,
                workdir=machine.workdir,
                env=machine.env,
            )
            assert started == "/opt/template/warmup.py serve "
        engine.client().images.remove(image.identity, force=True)
