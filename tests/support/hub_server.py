"""A server on loopback that speaks the protocol of a Hugging Face hub.

The routes are those that huggingface_hub asks: what a revision is, with the names, sizes and (of
large files) hashes of its files, and the files themselves.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from tests.support.content_server import served

# Files of these kinds are large ones, whose SHA-256 the hub knows.
LARGE = (".safetensors", ".parquet", ".onnx", ".bin")


@dataclass
class Repo:
    """A repository: its files by path, and what `main` is."""

    files: dict[str, bytes]
    private: bool = False
    gated: bool = False

    @property
    def commit(self) -> str:
        """The commit of `main`, which changes with the files."""
        return hashlib.sha256(repr(sorted(self.files.items())).encode()).hexdigest()[:40]


@dataclass
class HubServer:
    """Serves `repos` by kind and name; `sent` are the paths of the files that it has sent.

    `token` opens private and gated repositories; `tokens` are those that it was sent.
    """

    url: str = ""
    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)
    token: str = "hub-token-of-the-test"  # noqa: S105 - of nothing
    tokens: set[str] = field(default_factory=set)

    def respond(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer a GET or HEAD."""
        sent_token = (handler.headers.get("Authorization") or "").removeprefix("Bearer ")
        if sent_token:
            self.tokens.add(sent_token)
        parts = unquote(urlsplit(handler.path).path).strip("/").split("/")
        is_api = parts[0] == "api"
        parts = parts[1:] if is_api else parts
        kind = "dataset" if parts[0] == "datasets" else "model"
        parts = parts[1:] if parts[0] in ("models", "datasets") else parts
        name, parts = "/".join(parts[:2]), parts[2:]
        repo = self.repos.get((kind, name))
        if repo is None or (repo.private and sent_token != self.token):
            return _refuse(handler, 401, "RepoNotFound", "Repository not found")
        if repo.gated and sent_token != self.token and not is_api:
            return _refuse(handler, 403, "GatedRepo", "Access is restricted")
        if parts[1] not in ("main", repo.commit):
            return _refuse(handler, 404, "RevisionNotFound", "Invalid rev id")
        if is_api:
            return _send(handler, json.dumps(_info(name, repo)).encode(), {})
        path = "/".join(parts[2:])
        if path not in repo.files:
            return _refuse(handler, 404, "EntryNotFound", "Entry not found")
        if handler.command == "GET":
            self.sent.append(path)
        content = repo.files[path]
        etag = hashlib.sha256(content).hexdigest()
        headers = {"X-Repo-Commit": repo.commit, "ETag": f'"{etag}"'}
        return _send(handler, content, headers)


def _info(name: str, repo: Repo) -> dict[str, Any]:
    siblings = []
    for path, content in sorted(repo.files.items()):
        entry: dict[str, Any] = {
            "rfilename": path,
            "size": len(content),
            "blobId": hashlib.sha256(content).hexdigest()[:40],
        }
        if path.endswith(LARGE):
            sha256 = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
        siblings.append(entry)
    gated = "auto" if repo.gated else False
    return {
        "id": name,
        "sha": repo.commit,
        "private": repo.private,
        "gated": gated,
        "tags": [],
        "siblings": siblings,
    }


def _send(handler: BaseHTTPRequestHandler, content: bytes, headers: dict[str, str]) -> None:
    handler.send_response(200)
    for name, value in {**headers, "Content-Length": str(len(content))}.items():
        handler.send_header(name, value)
    handler.end_headers()
    if handler.command == "GET":
        handler.wfile.write(content)


def _refuse(handler: BaseHTTPRequestHandler, status: int, code: str, message: str) -> None:
    handler.send_response(status)
    handler.send_header("X-Error-Code", code)
    handler.send_header("X-Error-Message", message)
    handler.send_header("Content-Length", "0")
    handler.end_headers()


@contextlib.contextmanager
def serving() -> Iterator[HubServer]:
    """Run a hub for the `with` block."""
    server = HubServer()
    with served(server.respond, "GET", "HEAD") as server.url:
        yield server


@pytest.fixture
def hub() -> Iterator[HubServer]:
    """A hub."""
    with serving() as server:
        yield server


def use(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process, and those that it starts, use the hub."""
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    # The library has read the variable if another test has loaded it.
    files = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", files)


def safetensors(values: bytes = bytes(8)) -> bytes:
    """Return a file with one tensor of bytes."""
    header = {"weight": {"dtype": "U8", "shape": [len(values)], "data_offsets": [0, len(values)]}}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + values
