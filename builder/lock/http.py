"""Fetch a file from a URL into the store.

For a URL without a known hash, the store remembers what the server called the file (its `ETag` or
time), so that an unchanged file is not transferred again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from builder.errors import FetchError, NetworkError
from builder.system import processes, store

if TYPE_CHECKING:
    import httpx

_TIMEOUT_SECONDS = 30.0
_ATTEMPTS = 4
_CHUNK_BYTES = 1 << 20
_SHOWN_SECONDS = 2.0
_FORBIDDEN = "fetch a file that needs a password yourself, and copy it with `[[files]]`"
_VALIDATORS = {"etag": "If-None-Match", "last-modified": "If-Modified-Since"}

Progress = Callable[[int, int | None], None]


def discard(_size: int, _total: int | None) -> None:
    """Discard how much has arrived, and of how much."""


def fetch(url: str, *, known: bool = False, progress: Progress = discard) -> str:
    """Fetch a file into the store, and return its SHA-256.

    If it is `known`, that is its hash is, the server is not asked whether it has changed. Raise
    `FetchError` if the server does not give it, `NetworkError`, `StorageError`.
    """
    import httpx

    headers, kept = ({}, None) if known else _kept(url)
    headers |= {"Accept-Encoding": "identity"}
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with (
                httpx.Client(timeout=_TIMEOUT_SECONDS, follow_redirects=True) as client,
                client.stream("GET", url, headers=headers) as answer,
            ):
                if kept and answer.status_code == httpx.codes.NOT_MODIFIED:
                    return kept
                answer.raise_for_status()
                return _stored(url, answer, progress)
        except httpx.HTTPStatusError as error:
            status = error.response.status_code
            reason = f"{status} {httpx.codes.get_reason_phrase(status)}".strip()
            if status < httpx.codes.INTERNAL_SERVER_ERROR and status not in (408, 429):
                raise FetchError(
                    f"{url} cannot be fetched: the server answers {reason}",
                    hint=_FORBIDDEN if status in (401, 403) else "correct the URL in the spec",
                ) from error
            failure = NetworkError(f"{url} cannot be fetched: the server answers {reason}")
        # httpx passes on errors of proxy schemes and certificate files.
        except (httpx.HTTPError, httpx.InvalidURL, ImportError, OSError, ValueError) as error:
            reason = str(error) or type(error).__name__
            failure = NetworkError(
                f"{url} cannot be fetched: {reason}",
                hint="check the network and the URL, and run the same command again",
            )
        if attempt < _ATTEMPTS:
            processes.pause(0.5 * 2**attempt)
    raise failure


def _stored(url: str, answer: httpx.Response, progress: Progress) -> str:
    length = answer.headers.get("Content-Length", "")
    total = int(length) if length.isdecimal() else None
    shown = time.monotonic()
    with store.incoming() as incoming:
        # As sent: some servers say that they have compressed an archive, which is its own content.
        for chunk in answer.iter_raw(_CHUNK_BYTES):
            processes.check_not_stopped()
            incoming.write(chunk)
            if time.monotonic() - shown > _SHOWN_SECONDS:
                shown = time.monotonic()
                progress(incoming.size, total)
        incoming.keep()
        sha256 = incoming.sha256
    validators = {name: answer.headers[name] for name in _VALIDATORS if name in answer.headers}
    store.note(url, {"sha256": sha256, **validators})
    return sha256


def _kept(url: str) -> tuple[dict[str, str], str | None]:
    """Return headers that ask for the file only if it has changed, and the hash of the one that
    the store has."""
    known = store.noted(url) or {}
    headers = {_VALIDATORS[name]: known[name] for name in _VALIDATORS if name in known}
    return (headers, known["sha256"]) if headers else ({}, None)
