from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from builder.base_image import BaseImage, _parts, resolve_digest

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


def test_token_that_is_not_taken_keeps_the_tag(guarded: Registry) -> None:
    """A registry that refuses its own token is asked no third time."""
    guarded.token = {"token": "stale"}
    expected = guarded.kept("its registry answered 401")
    assert resolve_digest(guarded.reference) == expected
    assert [method for method, _ in guarded.seen] == ["HEAD", "GET", "HEAD"]


def test_refused_token_keeps_the_tag(guarded: Registry) -> None:
    """A token endpoint that fails is a note with its status."""
    guarded.token_status = 503
    assert resolve_digest(guarded.reference) == guarded.kept("its registry answered 503")


@pytest.mark.parametrize("challenge", ['Bearer service="registry.test"', "Bearer", "Negotiate"])
def test_challenge_without_realm_keeps_the_tag(guarded: Registry, challenge: str) -> None:
    """A challenge that does not say where tokens are given is a note."""
    guarded.challenge = challenge
    assert resolve_digest(guarded.reference) == guarded.kept(
        "its registry gives no anonymous access"
    )
    assert guarded.seen == [MANIFEST]


@pytest.mark.parametrize("token", [{}, {"token": 3}])
def test_answer_without_token_keeps_the_tag(guarded: Registry, token: Any) -> None:
    """A token endpoint that gives no token is a note."""
    guarded.token = token
    assert resolve_digest(guarded.reference) == guarded.kept(
        "its registry gives no anonymous access"
    )


@pytest.mark.parametrize("status", [403, 404, 429, 500])
def test_status_is_in_the_note(registry: Registry, status: int) -> None:
    """A registry that answers with an error is a note with its status."""
    registry.status = status
    expected = registry.kept(f"its registry answered {status}")
    assert resolve_digest(registry.reference) == expected


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
