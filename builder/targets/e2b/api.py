"""E2B's documented REST API, for what its SDK has no public function for.

Nothing is tried again here. A refusal is raised as the SDK raises its own: the status comes first
in its text.
"""

from __future__ import annotations

import atexit
import functools
import glob
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import IO, Any
from urllib.parse import quote

import e2b
import httpx

from builder.targets.e2b.account import Account
from builder.targets.e2b.certificates import certificates
from builder.targets.e2b.failures import LimitedError

__all__ = ["Api"]

_SECONDS = 60.0
_UPLOAD_SECONDS = 3600.0
_LONGEST_WAIT_SECONDS = 60
_REFUSALS = {401: e2b.AuthenticationException, 429: LimitedError, 503: e2b.ServiceBusyException}


class Api:
    """Calls for one account. Safe to use from several threads."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def ask(
        self, method: str, *path: str, body: Any = None, query: Mapping[str, Any] | None = None
    ) -> Any:
        """Return the value that E2B answers, None for no content. Each part of the path is one
        segment of it, whatever it holds."""
        return _value(self._answer(method, path, body, query))

    def pages(self, *path: str, query: Mapping[str, Any] | None = None) -> Iterator[Any]:
        """Return the entries of a list that comes in pages."""
        token = None
        while True:
            given = {**(query or {}), **({"nextToken": token} if token else {})}
            answer = self._answer("GET", path, None, given)
            yield from _value(answer)
            token = answer.headers.get("x-next-token")
            if not token:
                return

    def upload(self, folder: Path, source: str, link: Mapping[str, Any]) -> None:
        """Send the files that `source` means in `folder` to where E2B's `link` leads."""
        try:
            with tempfile.TemporaryFile() as file:
                size = _pack(folder, source, file)
                headers = {**(link.get("headers") or {}), "Content-Length": str(size)}
                answer = _client().put(
                    link["url"], content=file, headers=headers, timeout=_UPLOAD_SECONDS
                )
                answer.raise_for_status()
        except (httpx.HTTPError, OSError) as error:
            raise e2b.FileUploadException(f"uploading `{source}` failed: {error}") from error

    def _answer(
        self, method: str, path: tuple[str, ...], body: Any, query: Mapping[str, Any] | None
    ) -> httpx.Response:
        segments = "/".join(quote(part, safe="") for part in path)
        return _client().request(
            method,
            f"{self._account.origin}/{segments}",
            headers={"X-API-Key": self._account.api_key},
            params=query,
            **({} if body is None else {"json": body}),
        )


@functools.cache
def _client() -> httpx.Client:
    client = httpx.Client(verify=certificates(), timeout=_SECONDS)
    atexit.register(client.close)
    return client


def _value(answer: httpx.Response) -> Any:
    if answer.is_success:
        return answer.json() if answer.content else None
    try:
        message = answer.json()["message"]
    except (ValueError, KeyError, TypeError):
        message = answer.text[:500]
    text = f"{answer.status_code}: {message}"
    refusal = _REFUSALS.get(answer.status_code, e2b.TemplateException)(text)
    wait = answer.headers.get("retry-after", "")
    if isinstance(refusal, LimitedError) and wait.isdecimal():
        refusal.seconds = min(int(wait), _LONGEST_WAIT_SECONDS)
    raise refusal


def _pack(folder: Path, source: str, file: IO[bytes]) -> int:
    """Write the archive of a COPY, in the form of the SDK's; return its size."""
    packed: set[PurePath] = set()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name in sorted(glob.glob(source, root_dir=folder, recursive=True, include_hidden=True)):
            path = PurePath(name)
            if packed.isdisjoint(path.parents):  # a folder is added with all that is in it
                packed.add(path)
                archive.add(folder / path, arcname=str(path))
    size = file.tell()
    file.seek(0)
    return size
