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
import time
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import IO, Any
from urllib.parse import quote

import e2b
import httpx

from builder.targets.e2b.account import Account
from builder.targets.e2b.certificates import certificates
from builder.targets.e2b.failures import ForeignAnswerError, LimitedError, is_absent

SECONDS = 30.0
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

    def order(self, method: str, *path: str, body: Any = None) -> None:
        """Have something done, which E2B answers with no content."""
        answer = self._answer(method, path, body, None)
        if _value(answer) is not None or answer.content:
            raise ForeignAnswerError(f"{answer.status_code}: {answer.text[:500]}")

    def delete(self, *path: str, body: Any = None) -> None:
        """Have something deleted; what is gone already is fine."""
        try:
            self.order("DELETE", *path, body=body)
        except e2b.TemplateException as error:
            if not is_absent(error):
                raise

    def pages(self, *path: str) -> Iterator[Any]:
        """Return the entries of a list that comes in pages."""
        token = None
        while True:
            answer = self._answer("GET", path, None, {"nextToken": token} if token else None)
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
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
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


class _Bounded(httpx.SyncByteStream):
    """The content of an answer, which is to be there in time: the time-outs of httpx are those of
    each part."""

    def __init__(self, content: httpx.SyncByteStream) -> None:
        self._content, self._until = content, time.monotonic() + SECONDS

    def __iter__(self) -> Iterator[bytes]:
        for part in self._content:
            if time.monotonic() > self._until:
                raise httpx.ReadTimeout(f"the answer took longer than {SECONDS:.0f} seconds")
            yield part

    def close(self) -> None:
        self._content.close()


def _bound(answer: httpx.Response) -> None:
    assert isinstance(answer.stream, httpx.SyncByteStream)
    answer.stream = _Bounded(answer.stream)


@functools.cache
def _client() -> httpx.Client:
    hooks = {"response": [_bound]}
    client = httpx.Client(verify=certificates(), timeout=SECONDS, event_hooks=hooks)
    atexit.register(client.close)
    return client


def _value(answer: httpx.Response) -> Any:
    status = answer.status_code
    if answer.is_success:
        return answer.json() if answer.content else None
    if answer.is_redirect:
        raise ForeignAnswerError(f"{status}: it leads to {answer.headers.get('location')}")
    try:
        message = answer.json()["message"]
    except (ValueError, KeyError, TypeError):
        message = answer.text[:500]
        if status < 500 and status not in _REFUSALS:
            raise ForeignAnswerError(f"{status}: {message}") from None
    refusal = _REFUSALS.get(status, e2b.TemplateException)(f"{status}: {message}")
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
