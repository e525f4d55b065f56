from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from builder.flatten import flatten
from tests.support import chains, engine
from tests.support.engine import config_of
from tests.support.options import rounds

pytestmark = pytest.mark.docker


PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def compared(text: str, context: Path) -> None:
    """Build `text` with Docker, run its steps as E2B does, and compare the two machines."""
    base, start = engine.base_image(), engine.moment()
    (context / "Dockerfile").write_text(text)
    files = [str(p.relative_to(context)) for p in context.rglob("*") if p.is_file()]
    known = config_of(base)
    program = flatten(text, base=known, files=files)
    image = engine.build(context)
    try:
        with engine.running(base) as ours, engine.running(image) as theirs:
            machine = engine.Machine(ours, known.env)
            machine.carry_out(program, context)
            assert engine.differences(engine.tree(theirs, start), engine.tree(ours, start)) == []
            built = config_of(image)
            assert machine.env == built.env
            assert (machine.user, machine.workdir) == (built.user, built.workdir)
            if program.start_command:
                told = engine.client().containers.run(
                    image, remove=True, network_mode="none", labels=[engine.LABEL]
                )
                user, workdir = machine.user, machine.workdir
                started = machine.bash(
                    program.start_command, user=user, workdir=workdir, env=machine.env
                )
                assert (started, machine.env) == (told.decode(), built.env)
    finally:
        engine.client().images.remove(image, force=True)


@pytest.fixture
def context(tmp_path: Path) -> Path:
    for name, (content, mode) in (chains.FILES | {"tell.sh": (chains.TELL, 0o644)}).items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
        path.chmod(mode)
    return tmp_path


@pytest.mark.slow
@pytest.mark.chance
@settings(
    max_examples=rounds(4),
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a smaller example costs many builds
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_docker_and_e2b_make_the_same_machine(data: st.DataObject, context: Path) -> None:
    """What Docker builds from a chain of stages, and what its steps build, cannot be told apart."""
    compared(data.draw(chains.chains(engine.base_image())), context)


@pytest.mark.slow
def test_folders_and_wildcards_are_merged_as_docker_merges_them(context: Path) -> None:
    """COPY of folders and wildcards gives the same files, owners and modes, over what is there and
    behind links, too."""
    (context / "d" / "e").mkdir()
    (context / "d" / "e" / "deep").write_text("x")
    (context / "d" / "link").symlink_to("/etc/passwd")
    (context / "d").chmod(0o700)
    text = (
        f"FROM {engine.base_image()}\nUSER root\nENTRYPOINT []\n"
        "RUN mkdir -p /srv/old /srv/real && ln -s /srv/real /srv/behind && echo old > /srv/old/b\n"
        "COPY d /srv/old\nCOPY d /srv/behind\nCOPY . /srv/all/\n"
        "COPY --chown=user:user --chmod=0750 d/ /srv/new/er\n"
        "COPY --chown=user *.txt r??.sh d/e/* /srv/w/\nUSER user\nCOPY --chown=user d x\n"
    )
    compared(text, context)


@pytest.mark.slow
def test_account_without_a_home(context: Path) -> None:
    """Commands of an account whose home does not exist run as in Docker."""
    text = (
        f"FROM {engine.base_image()}\nUSER root\nENTRYPOINT []\nRUN useradd --no-create-home svc\n"
        "WORKDIR /srv/a%b\nRUN chmod 777 .\nUSER svc\nRUN pwd > where; id > who\n"
    )
    compared(text, context)
