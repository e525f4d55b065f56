"""Commands, folders, repositories and npm packages of a spec, built on the stand-in of E2B."""

from __future__ import annotations

import io
import tarfile

import pytest

from tests.conftest import Command
from tests.support.clouds import Place
from tests.support.content_server import ContentServer
from tests.support.e2b_server import Server
from tests.support.npm_registry import registry_of

KEYS = """
[system]
packages = ["git=1:2.*"]
[[system.repository]]
uri = "https://deb.example.org/tools"
suites = ["stable"]
components = ["main"]
key = "files/key.asc"
[node]
packages = ["node-tool@^1"]
[[run]]
command = "make tools"
before = "packages"
[[run]]
script = "files/setup.sh"
user = "user"
inputs = ["files/in.txt"]
env = { A = "1 2" }
[[files]]
source = "app/"
target = "/opt/app"
owner = "user"
mode = "0640"
folder-mode = "0750"
[workdir]
path = "/opt/app"
"""
FILES = {
    "app/sub/a.py": "1",
    "files/key.asc": "-----BEGIN PGP PUBLIC KEY BLOCK-----\n",
    "files/setup.sh": "#!/bin/sh\n",
    "files/in.txt": "in",
}


@pytest.mark.slow
@pytest.mark.needs("npm")
@pytest.mark.network
def test_commands_folders_repositories_and_npm_packages_reach_e2b(
    place: Place, cloud: Server, command: Command, content_server: ContentServer
) -> None:
    """`build` uploads the files that these keys name, and sends the steps in the order of the
    layers, each with its user, owner and modes."""
    variants = place.folder / "variants"
    for path, text in FILES.items():
        (variants / path).parent.mkdir(parents=True, exist_ok=True)
        (variants / path).write_text(text)
    with (variants / "four.toml").open("a") as spec:
        spec.write(KEYS)
    content_server.files |= registry_of(content_server.url, "node-tool")
    build = ("build", "four", "--target", "e2b", "--precheck", "never")
    done = command(*build, cwd=place.folder, NPM_CONFIG_REGISTRY=content_server.url)
    assert done.returncode == 0, done.stderr
    assert cloud.problems == []
    (built,) = [build for build in cloud.builds("four") if build.times_started]
    steps = [(step["type"], step["args"]) for step in built.request["steps"]]
    texts = {number: args[0] for number, (kind, args) in enumerate(steps) if kind == "RUN"}
    parts = (
        "URIs: https://deb.example.org/tools",
        "git=1:2.*",
        "npm ci --omit=dev",
        "make tools",
        "uv pip install",
        "chmod 0750 /opt/app",
        "exec ./files/setup.sh",
    )
    places = [
        (number, text.index(part))
        for part in parts
        for number, text in texts.items()
        if part in text
    ]
    assert len(places) == len(parts)
    assert places == sorted(places)
    last, _ = places[-1]
    assert "export A='\"'\"'1 2'\"'\"'" in texts[last]
    assert steps[last][1][1] == "user"
    assert "chmod 0640 /opt/app/sub/a.py" in texts[places[-2][0]]
    copies = {args[0]: args[1:] for kind, args in steps if kind == "COPY"}
    assert copies["folders/four/0"][:2] == ["/opt/app", "user:user"]
    assert ("WORKDIR", ["/opt/app"]) in steps
    assert {
        "folders/four/0/sub/a.py",
        "node/four/package-lock.json",
        "repositories/four/0.asc",
        "run/four/1/files/in.txt",
        "run/four/1/files/setup.sh",
    } <= uploaded(cloud)


def uploaded(cloud: Server) -> set[str]:
    """Return the paths of all files in the archives that were uploaded."""
    paths = set()
    for content in cloud.state.files.values():
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            paths |= {entry.name for entry in tar if entry.isfile()}
    return paths
