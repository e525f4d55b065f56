from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from builder.errors import SpecError, TemplateError
from builder.lock import Lock
from builder.lock.base_image import BaseImage, UnknownImageError, _parts, resolve_digest
from builder.lock.conflict import unknown_image
from builder.lock.resolve import lock_latest
from builder.system.events import discard
from tests.support.samples import load

DIGEST = "sha256:" + "5" * 64
TOKEN = "opaque"  # noqa: S105 - what the registry below gives to everybody
SCOPE = "repository:team/python:pull"
MANIFEST = ("HEAD", "/v2/team/python/manifests/3.13")


@dataclass(kw_only=True, slots=True)
class Registry:
    """What a registry on loopback answers; `seen` is what it was asked, in order."""

    host: str
    # The challenge, when manifests are for holders of a token; {host} is put in.
    challenge: str | None = None
    token: Any = None
    token_status: int = 200
    status: int = 200
    digest: str | None = DIGEST
    seen: list[tuple[str, str]] = field(default_factory=list)
    accepted: str = ""

    @property
    def reference(self) -> str:
        """An image of this registry."""
        return f"{self.host}/team/python:3.13"

    def kept(self, why: str) -> BaseImage:
        """The image, not pinned."""
        note = f"base image `{self.reference}` is not pinned to a digest: {why}; the tag is kept"
        return BaseImage(reference=self.reference, digest=None, note=note)


class Server(ThreadingHTTPServer):
    """Speaks the part of the OCI distribution protocol that tells a tag's digest."""

    daemon_threads = False
    registry: Registry


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        registry = self.server.registry
        registry.seen.append(("HEAD", self.path))
        registry.accepted = self.headers["Accept"]
        if registry.challenge and self.headers["Authorization"] != f"Bearer {TOKEN}":
            challenge = registry.challenge.format(host=registry.host)
            self.answer(401, {"WWW-Authenticate": challenge})
        elif registry.status == 200 and registry.digest is not None:
            self.answer(200, {"Docker-Content-Digest": registry.digest})
        else:
            self.answer(registry.status, {})

    def do_GET(self) -> None:
        registry = self.server.registry
        registry.seen.append(("GET", self.path))
        body = json.dumps(registry.token).encode()
        self.answer(registry.token_status, {"Content-Length": str(len(body))}, body)

    def answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: Any) -> None:
        """Say nothing: what was asked is in `seen`."""


@pytest.fixture(autouse=True)
def _direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy of the person who runs the tests stands between them and loopback."""
    for name in os.environ:
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Server(("127.0.0.1", 0), _Handler) as server:
        server.registry = Registry(host=f"127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server.registry
        server.shutdown()
        thread.join()


@pytest.fixture
def guarded(registry: Registry) -> Registry:
    """The same registry, which wants to see the token that it gives to everybody."""
    registry.challenge = (
        f'Bearer realm="http://{{host}}/token",service="registry.test",scope="{SCOPE}"'
    )
    registry.token = {"token": TOKEN}
    return registry


def test_open_registry_gives_the_digest(registry: Registry) -> None:
    """A registry without a challenge gives the digest in answer to one request."""
    assert resolve_digest(registry.reference) == BaseImage(
        reference=registry.reference, digest=DIGEST, note=None
    )
    assert registry.seen == [MANIFEST]


def test_digest_is_pinned_behind_the_tag(registry: Registry) -> None:
    """What stands behind FROM is the tag for people and the digest for the build."""
    assert resolve_digest(registry.reference).pinned == f"{registry.reference}@{DIGEST}"


def test_index_of_all_platforms_is_asked_for(registry: Registry) -> None:
    """The digest asked for is that of the index of all platforms, where there is one."""
    resolve_digest(registry.reference)
    assert registry.accepted.split(",")[:2] == [
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    ]


@pytest.mark.parametrize("key", ["token", "access_token"])
def test_challenge_is_answered_with_a_token(guarded: Registry, key: str) -> None:
    """A challenge is answered with a token from its realm, by either name that a token has."""
    guarded.token = {key: TOKEN}
    assert resolve_digest(guarded.reference) == BaseImage(
        reference=guarded.reference, digest=DIGEST, note=None
    )
    first, (method, path), last = guarded.seen
    parts = urlsplit(path)
    assert (first, last) == (MANIFEST, MANIFEST)
    assert (method, parts.path) == ("GET", "/token")
    assert parse_qsl(parts.query) == [("service", "registry.test"), ("scope", SCOPE)]


def refusal(registry: Registry) -> str:
    """What is said of an image that the registry does not give."""
    with pytest.raises(UnknownImageError) as caught:
        resolve_digest(registry.reference)
    assert caught.value.reference == registry.reference
    return caught.value.why


def test_token_that_is_not_taken(guarded: Registry) -> None:
    """A registry that refuses its own token, as Docker Hub does for what it does not have, is asked
    no third time: the image does not exist or needs credentials."""
    guarded.token = {"token": "stale"}
    assert refusal(guarded) == "does not exist in its registry, or needs credentials"
    assert [method for method, _ in guarded.seen] == ["HEAD", "GET", "HEAD"]


def test_token_endpoint_that_fails_keeps_the_tag(guarded: Registry) -> None:
    """A token endpoint that fails is a note with its status."""
    guarded.token_status = 503
    assert resolve_digest(guarded.reference) == guarded.kept("its registry answered 503")


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("code", ["DENIED", "UNAUTHORIZED", "NAME_UNKNOWN"])
def test_token_that_is_refused(guarded: Registry, status: int, code: str) -> None:
    """A registry that gives no token for an image says that it does not exist or is private."""
    guarded.token_status, guarded.token = status, {"errors": [{"code": code}]}
    assert refusal(guarded) == "does not exist in its registry, or needs credentials"


def test_filter_in_place_of_the_token_endpoint_keeps_the_tag(guarded: Registry) -> None:
    """A refusal that is not a registry's own is a note: a filter stands in between."""
    guarded.token_status, guarded.token = 403, "blocked by policy"
    assert resolve_digest(guarded.reference) == guarded.kept("its registry answered 403")


@pytest.mark.parametrize("challenge", ['Bearer service="registry.test"', "Bearer", "Negotiate"])
def test_challenge_without_realm(guarded: Registry, challenge: str) -> None:
    """A challenge that does not say where tokens are given to everybody wants credentials."""
    guarded.challenge = challenge
    assert refusal(guarded) == "does not exist in its registry, or needs credentials"
    assert guarded.seen == [MANIFEST]


@pytest.mark.parametrize("token", [{}, {"token": 3}])
def test_answer_without_token(guarded: Registry, token: Any) -> None:
    """A token endpoint that gives no token wants credentials."""
    guarded.token = token
    assert refusal(guarded) == "does not exist in its registry, or needs credentials"


def test_image_that_does_not_exist(registry: Registry) -> None:
    """A registry that does not know a name or a tag says so."""
    registry.status = 404
    assert refusal(registry) == "does not exist in its registry"


def test_manifest_that_is_denied(registry: Registry) -> None:
    """A 403 of the registry's own is a refusal, too."""
    registry.status = registry.token_status = 403
    registry.token = {"errors": [{"code": "DENIED", "message": "requested access is denied"}]}
    assert refusal(registry) == "does not exist in its registry, or needs credentials"


@pytest.mark.parametrize("status", [403, 429, 500, 503])
def test_status_is_in_the_note(registry: Registry, status: int) -> None:
    """A registry that fails, or a filter that answers in its place, is a note with the status."""
    registry.status = status
    expected = registry.kept(f"its registry answered {status}")
    assert resolve_digest(registry.reference) == expected


def locked(registry: Registry, folder: Path, **options: Any) -> Lock | TemplateError:
    spec = "schema = 1\nextends = '_base'\n"
    variants = load(
        folder,
        _base="schema = 1\n\n[base]\nimage = 'debian:13'\npython = '>=3.11'\n",
        _mine=f"{spec}[base]\nimage = '{registry.reference}'\n",
        leaf="schema = 1\nname = 'leaf'\nextends = '_mine'\n",
    )
    found = lock_latest(
        list(variants.values()), folder=folder / "variants", report=discard, **options
    )
    return found["leaf"]


def test_unknown_image_is_an_error_with_its_line(registry: Registry, tmp_path: Path) -> None:
    """An image that its registry does not know is a mistake in the spec that names it."""
    registry.status = 404
    error = locked(registry, tmp_path)
    assert isinstance(error, SpecError)
    image = registry.reference
    assert error.message == (
        "1 problem in the specs:\n"
        f"variants/_mine.toml:4:1: `base.image`: the image {image!r} does not exist in its registry (check the"
        " spelling; for an image that needs credentials, pull it with Docker first, or append its"
        f" digest: {image}@sha256:…)"
    )


def test_image_that_this_machine_has(registry: Registry, tmp_path: Path) -> None:
    """An image that its registry does not give, and that the engine of this machine has, is kept by
    its tag, with a note."""
    registry.status = 404
    asked: list[str] = []

    def has_image(image: str) -> bool:
        asked.append(image)
        return True

    lock = locked(registry, tmp_path, has_image=has_image)
    assert isinstance(lock, Lock)
    assert lock.image == registry.kept("only the Docker engine of this machine has it")
    assert asked == [registry.reference]


def test_near_match_of_an_image(tmp_path: Path) -> None:
    """A common image that is misspelt is named in the hint."""
    variants = load(
        tmp_path,
        leaf="schema = 1\nname = 'leaf'\n[base]\nimage = 'pyhton:3.13'\npython = '>=3.11'\n",
    )
    error = unknown_image(variants["leaf"], "does not exist in its registry", tmp_path / "variants")
    assert error.message == (
        "1 problem in the specs:\n"
        "variants/leaf.toml:4:1: `base.image`: the image 'pyhton:3.13' does not exist in its registry"
        " (did you mean `python`?)"
    )


@pytest.mark.parametrize("digest", [None, "", "latest", "sha256:55", DIGEST.upper(), DIGEST + "5"])
def test_nonsense_is_no_digest(registry: Registry, digest: str | None) -> None:
    """An answer without a SHA-256 digest, whole and well-formed, is a note."""
    registry.digest = digest
    assert resolve_digest(registry.reference) == registry.kept("its registry gave no digest")


def test_nobody_listening_keeps_the_tag() -> None:
    """A registry that cannot be reached is a note, and the tag is what stands behind FROM."""
    with socket.socket() as bound:  # …and never listening, so that nobody else can
        bound.bind(("127.0.0.1", 0))
        reference = f"127.0.0.1:{bound.getsockname()[1]}/team/python:3.13"
        found = resolve_digest(reference)
    assert found.note == (
        f"base image `{reference}` is not pinned to a digest: its registry did not answer;"
        " the tag is kept"
    )
    assert (found.digest, found.pinned) == (None, reference)


def test_reference_with_a_digest_needs_no_network(registry: Registry) -> None:
    """A reference that has a digest is pinned as it stands, and nobody is asked."""
    reference = f"{registry.reference}@{DIGEST}"
    found = resolve_digest(reference)
    assert found == BaseImage(reference=reference, digest=DIGEST, note=None)
    assert (found.pinned, registry.seen) == (reference, [])


@pytest.mark.parametrize(
    ("reference", "parts"),
    [
        ("python", ("registry-1.docker.io", "library/python", "latest")),
        ("python:3.13", ("registry-1.docker.io", "library/python", "3.13")),
        ("team/python", ("registry-1.docker.io", "team/python", "latest")),
        ("team/python:3.13", ("registry-1.docker.io", "team/python", "3.13")),
        ("docker.io/python:3.13", ("registry-1.docker.io", "library/python", "3.13")),
        ("docker.io/team/python", ("registry-1.docker.io", "team/python", "latest")),
        ("localhost/python", ("localhost", "python", "latest")),
        ("localhost:5000/python:3.13", ("localhost:5000", "python", "3.13")),
        ("registry:5000/python", ("registry:5000", "python", "latest")),
        ("registry.test/python:3.13", ("registry.test", "python", "3.13")),
        ("registry.test/a/b/c:1", ("registry.test", "a/b/c", "1")),
    ],
)
def test_what_a_reference_leaves_out(reference: str, parts: tuple[str, str, str]) -> None:
    """Host, `library/` and tag are filled in by Docker's rules, and for its own hub alone."""
    assert _parts(reference) == parts
