"""Downloads in real images and real local sandboxes."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builder.errors import PrecheckError
from builder.flatten import flatten
from builder.lock import Lock
from builder.lock.resolve import lock_latest
from builder.precheck.engine import DockerEngine
from builder.project import PrecheckSettings
from builder.render import Rendered, render, write_context
from builder.runtime import CodeExecutionPrimitive
from builder.spec import load_variants
from builder.system.events import discard
from builder.system.logs import Log
from tests.conftest import BASE, Command
from tests.support import engine
from tests.support.content_server import ContentServer, tar_of, zip_of
from tests.support.engine import config_of
from tests.support.hub_server import HubServer, Repo, use
from tests.support.prechecks import CERTIFICATES

LARGE = b"0" * ((16 << 20) + 1)
FILES = {"bin/run.sh": "#!/bin/sh\necho ran\n", "lib/a.txt": "text\n"}
SPEC = """
schema = 1
name = "leaf"
extends = "_base"
[resources]
memory-mb = {memory}
[[download]]
url = "{url}/table.csv"
target = "/home/user/data/table.csv"
[[download]]
url = "{url}/tool.tar.gz"
target = "/opt/tool"
extract = true
[[download]]
url = "{url}/tool.zip"
target = "/home/user/tool"
extract = true
mode = "0640"
[[download]]
url = "{url}/large.bin"
target = "/srv/deep/large.bin"
owner = "user"
mode = "0600"
[[download]]
url = "{url}/large.tar"
target = "/opt/tool/lib"
owner = "user"
extract = true
[[model]]
path = "models/own"
target = "/home/user/own"
[[dataset]]
url = "{url}/large.bin"
target = "/srv/rows.bin"
[[model]]
repo = "org/voice"
files = ["*.json", "*.bin"]
target = "/home/user/voice"
[[dataset]]
repo = "org/words"
target = "/srv/words"
"""


@pytest.fixture
def server(
    content_server: ContentServer, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> ContentServer:
    content_server.files |= {
        "table.csv": b"a,b\n1,2\n",
        "tool.tar.gz": tar_of(FILES, links={"run": "bin/run.sh"}),
        "tool.zip": zip_of(FILES),
        "large.bin": LARGE,
        "large.tar": tar_of({"large.sh": LARGE.decode(), "b": ""}, links={"c": "b"}, mode="w:"),
    }
    hub.repos["model", "org/voice"] = Repo({"config.json": b"{}", "deep/weights.bin": LARGE})
    hub.repos["dataset", "org/words"] = Repo({"words.csv": b"word\n"})
    use(hub, monkeypatch)
    return content_server


def rendered(write: Callable[..., Path], server: ContentServer, memory: int) -> Rendered:
    base = BASE.replace("localhost:1/python:3.13", engine.base_image())
    folder = write(_base=base, leaf=SPEC.format(url=server.url, memory=memory))
    (folder.parent / "models" / "own" / "sub").mkdir(parents=True, exist_ok=True)
    (folder.parent / "models" / "own" / "config.json").write_text("{}")
    (folder.parent / "models" / "own" / "sub" / "weights").write_text("weights")
    (variant,) = load_variants(folder)
    lock = lock_latest([variant], folder=folder, report=discard)["leaf"]
    assert isinstance(lock, Lock), lock
    return render(variant, lock)


def built(docker: DockerEngine, leaf: Rendered, folder: Path) -> Any:
    with Log(folder / "logs", target="test") as log:
        return docker.build(leaf, tag=f"{engine.LABEL}/{folder.name}", report=discard, log=log)


@pytest.mark.slow
@pytest.mark.docker
@pytest.mark.network
def test_downloads_are_the_same_however_they_are_delivered(
    write: Callable[..., Path], server: ContentServer, own_cache: Path, tmp_path: Path
) -> None:
    """Copied by Docker, fetched by a step, and carried out as E2B's steps, downloads and models become
    the same paths with the same modes, owners and content."""
    settings = PrecheckSettings(network="host", ca_bundle=str(CERTIFICATES))
    docker, known = DockerEngine(settings), config_of(engine.base_image())
    start = engine.moment()
    trees: list[dict[str, list[Any]]] = []
    images: list[str] = []
    for memory in (128, 1024):
        leaf = rendered(write, server, memory)
        copied = [each.copied for each in leaf.fetched]
        large = memory == 1024
        assert copied == [True, True, True, large, large, True, large, large, True]
        context = tmp_path / str(memory)
        write_context(leaf, context, report=discard)
        program = flatten(leaf.content("Dockerfile").decode(), files=leaf.context_paths)
        image = built(docker, leaf, context)
        with (
            engine.running(engine.base_image(), network="host") as ours,
            engine.running(image.identity) as theirs,
        ):
            machine = engine.Machine(ours, {**known.env, "SSL_CERT_FILE": str(CERTIFICATES)})
            ours.exec_run(["mkdir", "-p", str(CERTIFICATES.parent)])
            machine.carry_out(program, context)
            trees += [engine.tree(theirs, start), engine.tree(ours, start)]
        images.append(image.identity)
    for identity in images:  # which share layers
        engine.client().images.remove(identity, force=True)
    ours_of = [
        {
            path: entry
            for path, entry in tree.items()
            if path.startswith(("/home/user/", "/opt/tool", "/srv/"))
        }
        for tree in trees
    ]
    modes = {
        path: (f"{entry[1]:o}", entry[2])
        for path, entry in ours_of[0].items()
        if entry[0] == stat.S_IFREG and not path.startswith("/home/user/.")
    }
    assert modes == {
        "/home/user/data/table.csv": ("644", 1000),
        "/home/user/own/config.json": ("644", 1000),
        "/home/user/own/sub/weights": ("644", 1000),
        "/home/user/tool/bin/run.sh": ("640", 1000),
        "/home/user/tool/lib/a.txt": ("640", 1000),
        "/home/user/voice/config.json": ("644", 1000),
        "/home/user/voice/deep/weights.bin": ("644", 1000),
        "/opt/tool/bin/run.sh": ("755", 0),
        "/opt/tool/lib/a.txt": ("644", 0),
        "/opt/tool/lib/b": ("644", 1000),
        "/opt/tool/lib/large.sh": ("755", 1000),
        "/srv/deep/large.bin": ("600", 1000),
        "/srv/rows.bin": ("644", 0),
        "/srv/words/words.csv": ("644", 0),
    }
    for tree in ours_of[1:]:
        assert engine.differences(ours_of[0], tree) == []


@pytest.mark.slow
@pytest.mark.docker
@pytest.mark.network
def test_step_refuses_another_file(
    write: Callable[..., Path], server: ContentServer, own_cache: Path, tmp_path: Path
) -> None:
    """A step that fetches a file fails if it has changed since it was locked, with both hashes."""
    leaf = rendered(write, server, 128)
    server.files["large.bin"] = b"other"
    docker = DockerEngine(PrecheckSettings(network="host", ca_bundle=str(CERTIFICATES)))
    with pytest.raises(PrecheckError) as failed:
        built(docker, leaf, tmp_path)
    assert (
        f"fetch: {server.url}/large.bin is not the file that was locked: its SHA-256 is"
        " d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa, expected"
    ) in failed.value.message


CODE = """
import os, subprocess
print(open("data/table.csv").read(), end="")
print(subprocess.run(["tool/bin/run.sh"], capture_output=True, text=True).stdout, end="")
print(os.path.getsize("large.bin"), os.access("data/table.csv", os.X_OK))
print(sorted(os.listdir(".")), os.path.exists("/opt/table.csv"))
"""
AT_HOME = """
schema = 1
name = "leaf"
extends = "_base"
[[download]]
url = "{url}/table.csv"
target = "/home/user/data/table.csv"
[[download]]
url = "{url}/tool.tar.gz"
target = "/home/user/tool"
extract = true
[[download]]
url = "{url}/large.bin"
target = "/home/user/large.bin"
[[download]]
url = "{url}/table.csv"
target = "/opt/table.csv"
[[verify]]
name = "the table is there"
code = "print(len(open('data/table.csv').readlines()))"
stdout = "2"
"""


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize("isolation", ["confined", "none"])
def test_local_sandboxes_have_the_downloads_of_their_home(
    isolation: str,
    write: Callable[..., Path],
    server: ContentServer,
    command: Command,
    local_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On `local`, downloads below /home/user are links in each sandbox's home. A download elsewhere
    is at its path in confined sandboxes, and listed as not provided without isolation."""
    monkeypatch.setenv("TEMPLATE_ISOLATION", isolation)
    folder = write(_base=BASE, leaf=AT_HOME.format(url=server.url)).parent
    done = command("build", "leaf", "--target", "local", cwd=folder, TEMPLATE_ISOLATION=isolation)
    assert done.returncode == 0, done.stderr
    assert (
        "not provided by local: downloads outside of /home/user of variants/leaf.toml:"
        " /opt/table.csv" in done.stderr
    ) == (isolation == "none")
    monkeypatch.setenv("TEMPLATE_REGISTRY", str(folder / "registry.json"))

    async def output() -> Any:
        async with CodeExecutionPrimitive(template_id="leaf", target="local") as executor:
            result = await executor.execute({"code": CODE})
            text = await executor.files.read_text("data/table.csv")
            return result["output"], result["error"], text

    assert asyncio.run(output()) == (
        f"a,b\n1,2\nran\n{len(LARGE)} False\n['data', 'large.bin', 'tool'] {isolation == 'confined'}\n",
        None,
        "a,b\n1,2\n",
    )
    (stored,) = [
        path for path in (local_cache / "content").iterdir() if path.stat().st_size == len(LARGE)
    ]
    assert stored.stat().st_nlink > 1
