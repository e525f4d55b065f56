"""The tutorial and the guides: every block runs, from top to bottom, in an empty folder."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import textwrap
import threading
import tomllib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from builder.cli.init_command import init
from builder.flatten import flatten
from builder.spec import load_variants
from builder.webhooks.ledger import GIB_SECOND, VCPU_SECOND, Ledger
from tests.conftest import BASE, LIGHT, ROOT, Command
from tests.support import engine
from tests.support.content_server import ContentServer, sha256, tar_of
from tests.support.e2b_server import Server
from tests.support.hub_server import HubServer, Repo, safetensors
from tests.support.index_server import answers, wheel
from tests.support.pages import blocks
from tests.support.prechecks import SERVICE
from tests.support.runs import until

DOCS = ROOT / "docs"


@pytest.mark.needs("git")
@pytest.mark.network
def test_tutorial(walk: Callable[..., str]) -> None:
    """The tutorial leads from an empty folder to a sandbox with a package of one's own."""
    printed = walk("tutorial.md")
    assert "\ncake        4\n" in printed
    assert "ZeroDivisionError: division by zero\n" in printed


@pytest.mark.slow
@pytest.mark.network
def test_requirements(walk: Callable[..., str], tmp_path: Path) -> None:
    """Every list of packages of the page becomes the spec that it shows, and is built."""
    walk("guides/requirements.md")
    written = [text for kind, text in blocks(DOCS / "guides/requirements.md") if kind == "toml"]
    shown = {tomllib.loads(text)["name"]: text for text in written}
    variants = tmp_path / "variants"
    assert {path.stem: path.read_text() for path in variants.glob("*.toml")} == shown
    records = json.loads((tmp_path / "registry.json").read_text())
    assert set(records["templates"]) == set(shown) == {"reports", "analysis", "lab"}


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize("built", ["part-own-*", pytest.param("part-*", marks=pytest.mark.soak)])
def test_dockerfile(
    tmp_path: Path,
    command: Command,
    walk: Callable[..., str],
    content_server: ContentServer,
    hub: HubServer,
    built: str,
) -> None:
    """Every instruction of the page becomes what the page shows, which can be built on E2B, as can
    the tables that a reader writes instead of other instructions, and which are built here."""
    content_server.files |= {"cities.csv": b"city\nKiel\n", "tool": b"#!/bin/sh\n"}
    walk("guides/dockerfile.md")
    page = DOCS / "guides/dockerfile.md"
    (_, whole), *pairs = [
        (source, spec)
        for (kind, source), (result, spec) in itertools.pairwise(blocks(page))
        if (kind, result) in {("dockerfile", "toml"), ("sh", "toml")}
    ]
    assert (tmp_path / "variants/reports.toml").read_text() == whole
    for number, pair in enumerate(pairs):
        source, shown = (
            text.replace("https://downloads.example.com", content_server.url) for text in pair
        )
        name = f"part-{number}"
        start = "" if source.startswith("FROM") else "FROM e2bdev/code-interpreter:latest\n"
        (tmp_path / f"{name}.Dockerfile").write_text(f"{start}{source}")
        init(name, project=tmp_path, source=tmp_path / f"{name}.Dockerfile")
        spec = tomllib.loads((tmp_path / f"variants/{name}.toml").read_text())
        assert spec == {"schema": 1, "name": name} | tomllib.loads(shown.replace("NAME", name))
        if "node" in spec and not shutil.which("npm"):
            (tmp_path / f"variants/{name}.toml").unlink()
    atlas = wheel("atlas", "1.2")
    content_server.files[atlas.filename] = atlas.content
    hub.repos["model", "acme/reader"] = Repo({"model.safetensors": safetensors()})
    manual = specs_of_the_reader(DOCS / "guides/dockerfile.md")
    assert [next(iter(tomllib.loads(text))) for text in manual] == [
        "from-template", "system", "python", "model",
    ]  # fmt: skip
    for number, shown in enumerate(manual):
        text = shown.replace("https://downloads.example.com", content_server.url)
        text = text.replace("0" * 64, sha256(atlas.content))
        head = f'schema = 1\nname = "part-own-{number}"\n'
        (tmp_path / f"variants/part-own-{number}.toml").write_text(head + text)
    for arguments in (["render", "part-*"], ["build", built, "--target", "local"]):
        done = command(*arguments, HF_ENDPOINT=hub.url)
        assert done.returncode == 0, done.stderr
    generated = list(tmp_path.glob("generated/part-*/Dockerfile"))
    assert len(generated) - len(manual) in {len(pairs), len(pairs) - 1}
    for path in generated:
        assert flatten(path.read_text()).steps


def specs_of_the_reader(page: Path) -> list[str]:
    """Return the specs of a page that `init` does not write: a reader writes them in place of
    commands."""
    pairs = itertools.pairwise(blocks(page))
    return [spec for (kind, _), (result, spec) in pairs if (kind, result) == ("text", "toml")]


@pytest.mark.network
def test_files(walk: Callable[..., str]) -> None:
    """The specs of the page are checked and rendered."""
    walk("guides/files.md")


@pytest.mark.network
def test_downloads(walk: Callable[..., str], content_server: ContentServer, tmp_path: Path) -> None:
    """The downloads of the guide are locked, and the plan says how each gets into a layer."""
    archive = tar_of({"atlas.txt": "maps"})
    content_server.files |= {
        "cities.csv": b"city,inhabitants\nBonn,336000\nKiel,248000\nGera,93000\n",
        "atlas-1.2.tar.gz": archive,
    }
    replace = {"https://downloads.example.com": content_server.url, "0" * 64: sha256(archive)}
    printed = walk("guides/downloads.md", replace)
    line = re.search(r"fetched: .*csv: \d+ bytes", (DOCS / "guides/downloads.md").read_text())
    assert line
    assert line[0].replace("https://downloads.example.com", content_server.url) in printed
    assert (tmp_path / "generated/cities/Dockerfile").is_file()


@pytest.mark.network
def test_packages_by_address(
    walk: Callable[..., str], content_server: ContentServer, tmp_path: Path
) -> None:
    """The packages of the guide are locked, and the other forms that it shows are valid."""
    atlas, pricing = wheel("atlas", "1.2"), wheel("pricing", "0.1")
    content_server.files[atlas.filename] = atlas.content
    (tmp_path / "variants/files").mkdir(parents=True)
    (tmp_path / "variants/files" / pricing.filename).write_bytes(pricing.content)
    replace = {"https://downloads.example.com": content_server.url, "0" * 64: sha256(atlas.content)}
    page = "guides/packages-by-address.md"
    assert f"#sha256={sha256(pricing.content)}" in walk(page, replace)
    text = (tmp_path / "generated/reader/requirements/reader.txt").read_text()
    assert "    # atlas==1.2\n" in text
    assert "    # pricing==0.1\n" in text
    commit, pipeline = (text for kind, text in blocks(DOCS / page) if kind == "text")
    further = pipeline.replace("…", "0" * 64).replace("packages = [", f"packages = [{commit},")
    (tmp_path / "variants/reader.toml").write_text(f"schema = 1\nname = 'a'\n[python]\n{further}")
    (variant,) = load_variants(tmp_path / "variants")
    assert len(variant.requirements) == 3


@pytest.mark.slow
@pytest.mark.network
def test_services(walk: Callable[..., str], tmp_path: Path) -> None:
    """The web application of the page is built on E2B, and its checks hold; the parts of a spec that
    the page shows are valid."""
    (_, app), *_ = [block for block in blocks(DOCS / "guides/services.md") if block[0] == "python"]
    (tmp_path / "app").mkdir()
    (tmp_path / "app/app.py").write_text(app)
    (tmp_path / "pyproject.toml").write_text("[tool.template-builder.precheck]\nwhen = 'never'\n")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    # The stand-in's sandboxes run on this machine, with the packages of the tests.
    versions = [f'"{name}=={version(name)}"' for name in ("starlette", "uvicorn")]
    replace = {'"starlette", "uvicorn"': ", ".join(versions), "8000": port}
    words = [sys.executable, "-m", "uvicorn", "--app-dir", str(tmp_path / "app"), "app:app"]
    with (
        subprocess.Popen([*words, "--port", port], stderr=subprocess.DEVNULL) as service,
        Server() as server,
    ):
        try:
            until(lambda: answers_at(port), 60)
            printed = walk("guides/services.md", replace, **server.environment)
        finally:
            service.kill()
    line = "not provided by e2b: running code in its sandboxes, since `service.ready-url`"
    assert f"{line} (variants/notes.toml:7) is not about http://localhost:49999" in printed
    records = json.loads((tmp_path / "registry.json").read_text())["templates"]["notes"]["e2b"]
    (build,) = records["builds"].values()
    assert build["verified"]["checks"] == [
        "import starlette",
        "import uvicorn",
        "there are no notes yet",
        "unknown pages are errors",
        "the program is there",
    ]
    parts = [text for kind, text in blocks(DOCS / "guides/services.md") if kind == "toml"][1:]
    for number, text in enumerate(parts):
        spec = f'schema = 1\nname = "part-{number}"\n{text}'
        (tmp_path / f"variants/part-{number}.toml").write_text(spec)
    both, _ = load_variants(tmp_path / "variants")[1:]
    assert both.runs_code


def answers_at(port: str) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", int(port))).close()
        return True
    return False


@pytest.mark.slow
@pytest.mark.network
def test_from_template(walk: Callable[..., str], tmp_path: Path) -> None:
    """The child of the page is built after its parent, on the build of it."""
    walk("guides/from-template.md")
    recorded = json.loads((tmp_path / "registry.json").read_text())["templates"]
    (build,) = recorded["calendars"]["local"]["builds"].values()
    assert build["from_template"] == recorded["dates"]["local"]["channels"]["stable"]


@pytest.mark.slow
@pytest.mark.network
def test_models(
    walk: Callable[..., str], content_server: ContentServer, hub: HubServer, tmp_path: Path
) -> None:
    """The models of the guide are locked, from each source, and the plan lists them."""
    content_server.files["voice.onnx"] = b"voice"
    hub.repos["model", "acme/reader"] = Repo({"model.safetensors": safetensors()})
    hub.repos["model", "acme/reader"].files["config.json"] = b"{}"
    hub.repos["dataset", "acme/words"] = Repo({"words.csv": b"word\n"})
    replace = {"https://downloads.example.com": content_server.url}
    printed = walk("guides/models.md", replace, HF_ENDPOINT=hub.url, TEMPLATE_ISOLATION="none")
    assert printed.count("fetched: model ") == 2
    assert printed.count("fetched: dataset ") == 1
    assert "models outside of /home/user of variants/reader.toml: /opt/models/own" in printed


def test_cost(tmp_path: Path, walk: Callable[..., str]) -> None:
    """The worked example computes what the page says, at the prices that `usage` takes."""
    (tmp_path / "variants").mkdir()
    Ledger(tmp_path / ".builder/usage.sqlite").usage()
    page = (DOCS / "guides/cost.md").read_text()
    printed = walk("guides/cost.md").splitlines()
    assert f"prints `{printed[0]}`" in page
    assert f"prints `{printed[1]}`" in page
    assert f"| one virtual CPU | {VCPU_SECOND:f} | {VCPU_SECOND * 3600:.4f} |" in page
    assert f"| one GiB of memory | {GIB_SECOND:.7f} | {GIB_SECOND * 3600:.4f} |" in page


def test_e2b_account(tmp_path: Path, walk: Callable[..., str]) -> None:
    """With a key that E2B accepts, `doctor` says so."""
    (tmp_path / "variants").mkdir()
    (tmp_path / "variants/light.toml").write_text(f"name = 'light'\n{textwrap.dedent(BASE)}")
    with Server() as server:
        printed = walk("guides/e2b-account.md", **server.environment)
    assert re.search(r"ok +target e2b", printed)


@pytest.fixture
def private_index() -> Iterator[str]:
    """The address of an index with `acme-tools`, which wants a user and password for it."""
    files = dict(answers({"/simple": [wheel("acme-tools", "1.0", acme_tools="")]}))
    wanted = "Basic " + base64.b64encode(b"builder:s3cret").decode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = files.get(self.path, b"")
            status = 200 if content else 404
            if content and self.headers["Authorization"] != wanted:
                status, content = 401, b""
            self.send_response(status)
            self.send_header("Content-Type", "text/html" if self.path.endswith("/") else "a/b")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.slow
@pytest.mark.network
def test_private_index(tmp_path: Path, walk: Callable[..., str], private_index: str) -> None:
    """A package of an index with a password is locked and installed, and E2B is told of the index."""
    walk("guides/private-index.md", {"https://packages.example.com": private_index})
    lock = (tmp_path / "generated/tools/requirements/tools.txt").read_text()
    assert "acme-tools==1.0" in lock
    assert "127.0.0.1" not in lock
    dockerfile = (tmp_path / "generated/tools/Dockerfile").read_text()
    assert f'ENV UV_INDEX="{private_index}/simple"' in dockerfile


@pytest.mark.docker
@pytest.mark.network
@pytest.mark.soak
def test_debian_packages(tmp_path: Path, walk: Callable[..., str]) -> None:
    """A template with a Debian package passes its check in a container."""
    (settings,) = [text for kind, text in blocks(DOCS / "docker.md") if kind == "toml"]
    (tmp_path / "pyproject.toml").write_text(settings)
    base = f'name = "search"\n[base]\nimage = "{engine.base_image()}"\n{textwrap.dedent(SERVICE)}'
    walk("guides/debian-packages.md", {'name = "search"\n': base})


@pytest.mark.slow
@pytest.mark.needs("git")
@pytest.mark.network
def test_github_actions(tmp_path: Path, walk: Callable[..., str]) -> None:
    """The workflow is written, a candidate is published, and the job of the application runs."""
    walk("guides/github-actions.md")
    assert (
        "rebuild"
        in yaml.safe_load((tmp_path / ".github/workflows/templates.yml").read_text())["jobs"]
    )
    (job,) = [text for kind, text in blocks(DOCS / "guides/github-actions.md") if kind == "yaml"]
    steps = yaml.safe_load(job)["jobs"]["tests"]["steps"]
    commands = [step["run"] for step in steps if "run" in step][1:]
    assert commands == ["template-builder build --frozen", "template-builder resolve tools"]


@pytest.mark.slow
@pytest.mark.network
def test_gallery(
    tmp_path: Path, walk: Callable[..., str], content_server: ContentServer, hub: HubServer
) -> None:
    """Every spec of the gallery is valid and can be locked, and the small ones are built."""
    content_server.files["cities.csv"] = b"city,country\nKiel,Germany\n"
    model = {"model.safetensors": safetensors(), "config.json": b"{}", "vocab.txt": b"a"}
    hub.repos["model", "sentence-transformers/all-MiniLM-L6-v2"] = Repo(model)
    replace = {"https://downloads.example.com": content_server.url}
    printed = walk("guides/gallery.md", replace, HF_ENDPOINT=hub.url)
    assert "dashboard: nothing runs code in its sandboxes on E2B" in printed
    specs = [path.stem for path in (tmp_path / "variants").glob("[!_]*.toml")]
    assert sorted(path.name for path in (tmp_path / "generated").iterdir()) == sorted(specs)


@pytest.fixture
def light(tmp_path: Path, command: Command) -> None:
    """A template called `light` in this test's folder, built on this machine."""
    (tmp_path / "variants").mkdir()
    (tmp_path / "variants/_base.toml").write_text(textwrap.dedent(BASE))
    (tmp_path / "variants/light.toml").write_text(LIGHT)
    assert command("build").returncode == 0


ASK = """
from app import app
from starlette.testclient import TestClient

with TestClient(app) as client:
    for code in ("x = 1; print(x)", "print(x)"):
        print(client.post("/run", json={"code": code}).json())
"""


@pytest.mark.slow
@pytest.mark.network
def test_web_handler(
    tmp_path: Path, light: None, walk: Callable[..., str], local_cache: Path
) -> None:
    """The application of the guide gives each request a sandbox of its own."""
    replace = {"tta-data-minimal": "light", "pool_size=4": "pool_size=1"}
    walk("guides/web-handler.md", replace)
    asked = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ASK],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"TEMPLATE_TARGET": "local"},
    )
    assert asked.stdout == (
        "{'output': '1\\n', 'error': None}\n"
        "{'output': '', 'error': \"NameError: name 'x' is not defined\"}\n"
    ), asked.stderr


@pytest.mark.slow
@pytest.mark.network
def test_troubleshooting(light: None, walk: Callable[..., str]) -> None:
    """The commands of the page say what works and what the last build did."""
    printed = walk("troubleshooting.md")
    assert re.search(r"ok +target local", printed)
    assert "recorded local:light@sha256-" in printed
