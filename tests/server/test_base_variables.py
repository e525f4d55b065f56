"""Variables of a base image, from its registry."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from builder.errors import SpecError
from builder.lock import Lock
from builder.lock.base_image import BaseImage, environment_of
from builder.lock.resolve import lock_latest
from builder.project import Project
from builder.render import render, write
from builder.spec import Variant
from builder.system.events import discard
from builder.workflow import check_references
from tests.support.content_server import served
from tests.support.samples import load

DIGEST, AMD64, ARM64 = ("sha256:" + letter * 64 for letter in "abc")
TOKEN = "opaque"  # noqa: S105 - the registry gives it to all
PAIRS = ["PATH=/usr/bin", "LANG=C.UTF-8", "OPTIONS=-a=1 -b", "EMPTY="]
PLATFORMS = [
    {"digest": digest, "platform": {"os": "linux", "architecture": name}}
    for digest, name in ((ARM64, "arm64"), (AMD64, "amd64"))
]


@dataclasses.dataclass
class ImageRegistry:
    """A registry of images with JSON documents by path. `requests` are the paths of all requests.
    If it is `guarded`, it requires a token."""

    host: str = ""
    guarded: bool = False
    requests: list[str] = dataclasses.field(default_factory=list)
    documents: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def reference(self) -> str:
        return f"{self.host}/team/python:3.13"

    def respond(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path.partition("?")[0].removeprefix("/v2/team/python/")
        self.requests.append(path)
        body = self.documents.get(path)
        allowed = not self.guarded or handler.headers["Authorization"] == f"Bearer {TOKEN}"
        if path == "/token":
            body, allowed = {"token": TOKEN}, True
        handler.send_response(401 if not allowed else 404 if body is None else 200)
        if not allowed:
            challenge = f'Bearer realm="http://{self.host}/token",service="s",scope="x"'
            handler.send_header("WWW-Authenticate", challenge)
        content = json.dumps(body).encode()
        handler.send_header("Docker-Content-Digest", DIGEST)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(content)


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch) -> Iterator[ImageRegistry]:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere")
    registry = ImageRegistry()
    image = {"config": {"digest": "sha256:config"}}
    index = {"manifests": PLATFORMS}
    registry.documents = {
        "manifests/3.13": index,
        f"manifests/{DIGEST}": index,
        f"manifests/{AMD64}": image,
        "blobs/sha256:config": {"config": {"Env": PAIRS}},
    }
    with served(registry.respond, "GET", "HEAD") as url:
        registry.host = url.partition("//")[2]
        yield registry


def image(registry: ImageRegistry, digest: str | None = DIGEST) -> BaseImage:
    return BaseImage(reference=registry.reference, digest=digest)


@pytest.mark.parametrize("guarded", [False, True])
def test_registry_gives_the_variables(images: ImageRegistry, guarded: bool) -> None:
    """The variables are those in the configuration of the image for linux/amd64, even if the
    registry requires a token."""
    images.guarded = guarded
    assert environment_of(image(images)) == {
        "PATH": "/usr/bin",
        "LANG": "C.UTF-8",
        "OPTIONS": "-a=1 -b",
        "EMPTY": "",
    }
    token = [f"manifests/{DIGEST}", "/token"] * guarded
    assert images.requests == [
        *token,
        f"manifests/{DIGEST}",
        f"manifests/{AMD64}",
        "blobs/sha256:config",
    ]


@pytest.mark.parametrize("config", [None, 5, {}, {"config": []}])
def test_nonsense_is_no_configuration(images: ImageRegistry, config: Any) -> None:
    """If the registry gives no configuration of an image, the variables of the image are
    unknown."""
    images.documents["blobs/sha256:config"] = config
    assert environment_of(image(images, None)) is None


def variants_of(images: ImageRegistry, project: Path, value: str) -> dict[str, Variant]:
    base = f"[base]\nimage = '{images.reference}'\npython = '>=3.11'\n"
    env = f"[env]\nOPTIONS = '{value}'\n"
    child = "schema = 1\nname = 'child'\nfrom-template = 'leaf'\n[env]\nLIST = '$OPTIONS$LANG'\n"
    return load(project, leaf=f"schema = 1\nname = 'leaf'\n{base}{env}", child=child)


def test_variables_are_locked(images: ImageRegistry, tmp_path: Path) -> None:
    """The lock holds the variables that a spec refers to, so that `validate` needs no network. A
    template from another gets the variables of the parent's spec and image, too."""
    folder, project = tmp_path / "variants", Project(root=tmp_path)
    leaf = variants_of(images, tmp_path, "$OPTIONS -c")["leaf"]
    lock = lock_latest([leaf], folder=folder, report=discard)["leaf"]
    assert isinstance(lock, Lock)
    assert (lock.env, lock.image.digest) == ({"OPTIONS": "-a=1 -b"}, DIGEST)
    rendered = render(leaf, lock)
    assert rendered.variant.env == {"OPTIONS": "-a=1 -b -c"}
    write([rendered], project.generated, all_variants=True)
    images.requests.clear()
    check_references([leaf], project)
    assert images.requests == []
    check_references(list(variants_of(images, tmp_path, "$OPTIONS -c").values()), project)
    assert images.requests[-1] == "blobs/sha256:config"


def test_unknown_variable_is_found_before_a_build(images: ImageRegistry, tmp_path: Path) -> None:
    """`validate` and `lock` report a reference to a variable that nothing sets, with its place."""
    folder, project = tmp_path / "variants", Project(root=tmp_path)
    leaf = variants_of(images, tmp_path, "$OPTION")["leaf"]
    expected = (
        "1 problem in the specs:\nvariants/leaf.toml:7:1: `env.OPTIONS`: `$OPTION` has no value:"
        " neither a line above nor an extended spec sets it, and the base image"
        f" `{images.reference}` sets only EMPTY, LANG, OPTIONS, PATH (did you mean `OPTIONS`?;"
        " write `$$OPTION` for that text itself)"
    )
    with pytest.raises(SpecError) as error:
        check_references([leaf], project)
    assert error.value.message == expected
    error_of_lock = lock_latest([leaf], folder=folder, report=discard)["leaf"]
    assert isinstance(error_of_lock, SpecError)
    assert error_of_lock.message == expected


def test_unknown_variable_of_a_parent(images: ImageRegistry, tmp_path: Path) -> None:
    """The error for a template from another names that template, and near matches of its
    variables."""
    variants_of(images, tmp_path, "$OPTIONS")
    spec = tmp_path / "variants" / "child.toml"
    spec.write_text(spec.read_text().replace("$OPTIONS$LANG", "$OPTIOS"))
    (child, _) = load(tmp_path).values()
    with pytest.raises(SpecError) as error:
        check_references([child], Project(root=tmp_path))
    assert error.value.message == (
        "1 problem in the specs:\nvariants/child.toml:5:1: `env.LIST`: `$OPTIOS` has no value:"
        " neither a line above nor the template 'leaf' sets it, and the base image"
        f" `{images.reference}` sets only EMPTY, LANG, OPTIONS, PATH (did you mean `OPTIONS`?;"
        " write `$$OPTIOS` for that text itself)"
    )
