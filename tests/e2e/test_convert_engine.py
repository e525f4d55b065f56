from __future__ import annotations

from pathlib import Path

import pytest
from docker.models.containers import Container

from builder.cli.init_command import init
from builder.precheck.engine import DockerEngine
from builder.project import PrecheckSettings
from builder.spec import load_variants
from builder.system.events import discard
from builder.system.logs import Log
from tests.support import engine
from tests.support.samples import rendered_of

DOCKERFILE = """\
FROM {base}
USER root
ARG LEVEL=3
ENV TOOLS=/opt/tools PATH=/opt/tools/bin:$PATH PRICE='$5'
RUN set -e; mkdir -p $TOOLS/bin && printf '%s\\n' "$LEVEL $TOOLS" > /opt/tools/level
WORKDIR /srv/app
COPY --chown=user:user app .
COPY --chmod=755 run.sh $TOOLS/bin/run
COPY app/main.py .
RUN cat main.py > copied && chown user:user copied
COPY conf/ /
USER user
WORKDIR /home/user
RUN run > out
"""
FILES = {
    "app/main.py": "print(1)\n",
    "app/lib/deep.py": "print(2)\n",
    "app/main.pyc": "no",
    "conf/etc/app.conf": "price=5\n",
    "run.sh": '#!/bin/sh\necho "$PRICE $(id -un) $(pwd) $PATH"\n',
    ".dockerignore": "**/*.pyc\n",
}


def listing(container: Container) -> list[str]:
    """Return the path, mode, owner and hash of each file that the Dockerfile makes."""
    tell = """for f in $(find /srv /opt/tools /etc/app.conf /home/user/out -type f); do
        echo "$(stat -c '%n %a %U:%G' "$f") $(sha256sum < "$f")"; done | sort"""
    output = container.exec_run(["sh", "-c", tell], user="root").output
    assert isinstance(output, bytes)
    return output.decode().splitlines()


@pytest.mark.slow
@pytest.mark.docker
@pytest.mark.network
def test_spec_makes_what_the_dockerfile_makes(tmp_path: Path) -> None:
    """Docker builds the same files, owners, modes and variables from a Dockerfile and from the spec
    that it becomes."""
    source = tmp_path / "source"
    for name, text in FILES.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text)
    (source / "Dockerfile").write_text(DOCKERFILE.format(base=engine.base_image()))
    init("tools", project=tmp_path, source=source / "Dockerfile")
    (variant,) = load_variants(tmp_path / "variants")
    docker = DockerEngine(PrecheckSettings(network="host"))
    rendered = rendered_of(variant, digest=None)
    original = engine.build(source)
    with Log(tmp_path / "logs", target="test") as log:
        image = docker.build(rendered, tag=f"{engine.LABEL}/tools", report=discard, log=log)
    with engine.running(original) as theirs, engine.running(image.identity) as ours:
        wanted = listing(theirs)
        assert listing(ours) == wanted
    assert [line.split()[0] for line in wanted] == [
        "/etc/app.conf",
        "/home/user/out",
        "/opt/tools/bin/run",
        "/opt/tools/level",
        "/srv/app/copied",
        "/srv/app/lib/deep.py",
        "/srv/app/main.py",
    ]
    environment = engine.config_of(original).env
    assert {name: image.env[name] for name in environment} == environment
    engine.client().images.remove(image.identity, force=True)
