"""Client of E2B's documented REST API, for what its SDK has no public function for.

It retries nothing. It raises a refusal as the SDK does: the text begins with the status.
"""

from __future__ import annotations

import atexit
import contextlib
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
from builder.targets.e2b.failures import (
    NO_ROUTE,
    AbsentError,
    ForbiddenError,
    ForeignResponseError,
    LimitedError,
)

SECONDS = 30.0
_UPLOAD_SECONDS = 3600.0
_LONGEST_WAIT_SECONDS = 60
_NAMED = {401: e2b.AuthenticationException, 429: LimitedError, 503: e2b.ServiceBusyException}
# On every route: "team is banned" and "team is blocked". No access to a template has other words.
_TEAM_REFUSED = "team is "
_REFUSALS = {**_NAMED, 403: ForbiddenError, 404: AbsentError}


class Api:
    """Calls for one account. Safe to use from several threads."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def ask(
        self, method: str, *path: str, body: Any = None, query: Mapping[str, Any] | None = None
    ) -> Any:
        """Return the value of E2B's response, None for no content.

        Each part of the path is one segment, which is quoted. Raises `AbsentError` for a 404 and
        `ForbiddenError` for a 403.
        """
        return _value(self._send(method, path, body, query))

    def order(self, method: str, *path: str, body: Any = None) -> None:
        """Make a call whose response has no content."""
        response = self._send(method, path, body, None)
        if _value(response) is not None or response.content:
            raise ForeignResponseError(f"{response.status_code}: {response.text[:500]}")

    def delete(self, *path: str, body: Any = None) -> None:
        """Delete something, if it is still there."""
        with contextlib.suppress(AbsentError):
            self.order("DELETE", *path, body=body)

    def pages(self, *path: str) -> Iterator[Any]:
        """Yield the entries of a paginated list."""
        token = None
        while True:
            response = self._send("GET", path, None, {"nextToken": token} if token else None)
            yield from _value(response)
            token = response.headers.get("x-next-token")
            if not token:
                return

    def upload(self, folder: Path, source: str, link: Mapping[str, Any]) -> None:
        """Upload the files that match `source` in `folder` to E2B's `link`."""
        try:
            with tempfile.TemporaryFile() as file:
                size = _pack(folder, source, file)
                headers = {**(link.get("headers") or {}), "Content-Length": str(size)}
                _client().put(
                    link["url"], content=file, headers=headers, timeout=_UPLOAD_SECONDS
                ).raise_for_status()
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise e2b.FileUploadException(str(error)) from error

    def _send(
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
    """The content of a response, with a time-out for all of it: those of httpx are for each
    part."""

    def __init__(self, content: httpx.SyncByteStream) -> None:
        self._content, self._until = content, time.monotonic() + SECONDS

    def __iter__(self) -> Iterator[bytes]:
        for part in self._content:
            if time.monotonic() > self._until:
                raise httpx.ReadTimeout(f"the response took longer than {SECONDS:.0f} seconds")
            yield part

    def close(self) -> None:
        self._content.close()


def _bound(response: httpx.Response) -> None:
    assert isinstance(response.stream, httpx.SyncByteStream)
    response.stream = _Bounded(response.stream)


@functools.cache
def _client() -> httpx.Client:
    hooks = {"response": [_bound]}
    client = httpx.Client(verify=certificates(), timeout=SECONDS, event_hooks=hooks)
    atexit.register(client.close)
    return client


def _value(response: httpx.Response) -> Any:
    status = response.status_code
    if response.is_success:
        return response.json() if response.content else None
    if response.is_redirect:
        location = response.headers.get("location")
        raise ForeignResponseError(f"{status}: it redirects to {location}")
    try:
        message = response.json()["message"]
    except (ValueError, KeyError, TypeError):
        message = response.text[:500]
        if status < 500 and status not in _NAMED:
            raise ForeignResponseError(f"{status}: {message}") from None
    text = f"{status}: {message}"
    if status == 403 and message.startswith(_TEAM_REFUSED):
        raise e2b.AuthenticationException(text)
    if NO_ROUTE in text:
        raise ForeignResponseError(text)
    refusal = _REFUSALS.get(status, e2b.TemplateException)(text)
    wait = response.headers.get("retry-after", "")
    if isinstance(refusal, LimitedError) and wait.isdecimal():
        refusal.seconds = min(int(wait), _LONGEST_WAIT_SECONDS)
    raise refusal


def _pack(folder: Path, source: str, file: IO[bytes]) -> int:
    """Write the archive of a COPY, in the SDK's format; return its size."""
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
