"""A registry that is one object in an object store, for teams whose machines write at once.

The only owner of obstore, which also fetches models from a store. Writers compare and swap: they
replace exactly what they read, or read again and redo their change. Readers cache the object, send
its ETag, and fall back to the cached copy, with a warning, while the store cannot be reached.
Credentials and endpoints come from the environment variables of each store's own tools (`AWS_…`,
`GOOGLE_…`, `AZURE_…`).
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import hashlib
import json
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.errors import FetchError, NetworkError, RegistryError, StorageError
from builder.system.documents import parse_json
from builder.system.extras import needs
from builder.system.files import atomic_write, cache_folder, exclusive

_VARIABLES = ("AWS_", "AZURE_", "GOOGLE_")
_SCHEMES = ("s3", "gs", "az", "abfs", "abfss")
_OVERTAKEN_SECONDS = 120.0
_SECRETS = re.compile(r"(?i)(secret|key|token|password|credential)")


class NoRegistryError(RegistryError):
    """There is no object at the address yet."""


class StaleRegistryWarning(UserWarning):
    """The store could not be reached: a cached copy is used."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kept:
    """A cached copy; `at` is when it was read, in seconds since the epoch."""

    text: str
    etag: str
    at: float


def read(url: str, *, max_age: float = 0.0) -> tuple[str, float]:
    """Return the registry's text and its age in seconds, 0 if read just now.

    A cached copy up to `max_age` seconds old is returned without a request. If the store cannot be
    reached, return the cached copy with a `StaleRegistryWarning`. Raise `RegistryError` if there is
    no object or access is refused, `NetworkError` if nothing is cached.
    """
    kept = _kept(url)
    if kept and 0 <= time.time() - kept.at < max_age:
        return kept.text, time.time() - kept.at
    try:
        with _translated(url):
            fetched = _fetch(url, etag=kept.etag if kept else None)
    except NetworkError as error:
        if kept is None:
            raise
        age = max(time.time() - kept.at, 0.0)
        warnings.warn(
            f"{error.message}; using a copy read {age_in_words(age)} ago, without later builds and"
            " revocations",
            StaleRegistryWarning,
            stacklevel=2,
        )
        return kept.text, age
    if fetched is None and kept:
        fetched = kept.text, kept.etag, None
    assert fetched is not None
    text, etag, _ = fetched
    _keep(url, _Kept(text=text, etag=etag, at=time.time()))
    return text, 0.0


def swap(
    url: str, change: Callable[[str | None], str], *, is_applied: Callable[[str], bool]
) -> None:
    """Replace the registry with what `change` returns for its text (None if there is none yet).

    If another writer is faster, read again and redo the change, so that neither is lost. A store
    may apply a change and lose the answer: `is_applied` recognises the change in a registry's text,
    so that it is made once. Raise `RegistryError`, `NetworkError`, and what `change` raises; then
    nothing was written, unless the error says that this is unknown.
    """
    with needs("store"):
        import obstore.exceptions as failures
        import tenacity

    overtaken = (failures.PreconditionError, failures.AlreadyExistsError)
    attempts = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(overtaken),
        wait=tenacity.wait_random_exponential(multiplier=0.02, max=1.0),
        stop=tenacity.stop_after_delay(_OVERTAKEN_SECONDS),
        reraise=True,
    )
    # Writers on one machine wait for each other, so only machines race.
    with exclusive(_cache_path(url).with_suffix(".lock")):
        try:
            for attempt in attempts:
                with attempt:
                    again = attempt.retry_state.attempt_number > 1
                    _swap_once(url, change, is_applied, again=again)
        except overtaken as error:
            raise RegistryError(
                f"{url} was changed by other writers for {_OVERTAKEN_SECONDS:.0f} seconds",
                hint="run the same command again",
            ) from error


def _swap_once(
    url: str, change: Callable[[str | None], str], is_applied: Callable[[str], bool], *, again: bool
) -> None:
    before: tuple[str, str, Any] | None = None
    with _translated(url), contextlib.suppress(FileNotFoundError):
        before = _fetch(url)
    if again and before and is_applied(before[0]):
        text, etag, _ = before
    else:
        text = change(before[0] if before else None)
        if before and text == before[0]:
            return  # nothing to write
        try:
            with _translated(url):
                etag = _put(url, text, before)
        except NetworkError as error:
            text, etag = _look_again(url, is_applied, error)
    _keep(url, _Kept(text=text, etag=etag, at=time.time()))


def _look_again(
    url: str, is_applied: Callable[[str], bool], error: NetworkError
) -> tuple[str, str]:
    """Return text and ETag of the registry if a change whose answer was lost was applied.

    Raise `error`, the failure of that change, if it was not applied.
    """
    try:
        with _translated(url):
            now = _fetch(url)
    except NoRegistryError:
        raise error from None
    except (NetworkError, RegistryError):
        raise NetworkError(
            f"{error.message}; it is unknown whether the change was made",
            hint=f"look at the registry before you run the same command again; {error.hint}",
        ) from error
    assert now
    if not is_applied(now[0]):
        raise error
    return now[0], now[1]


def names_below(address: str) -> list[str]:
    """Return the names of the objects below an address that ends in `/`. Raise `FetchError`,
    `NetworkError`."""
    with _fetching(address):
        store, _ = _store(f"{address}*")
        return [str(entry["path"]) for part in store.list() for entry in part]


def download(
    address: str, write: Callable[[bytes], None], *, known: str | None = None
) -> str | None:
    """Write an object, and return its ETag; None, and nothing is written, if that is still `known`.
    Raise `FetchError`, `NetworkError`, and what `write` raises."""
    with _fetching(address):
        import obstore.exceptions as failures

        store, key = _store(address)
        try:
            answer = store.get(key, options={"if_none_match": known} if known else None)
        except failures.NotModifiedError:
            return None
        chunks = iter(answer)
        while True:
            chunk = next(chunks, None)
            if chunk is None:
                return str(answer.meta["e_tag"])
            write(bytes(chunk))


@contextlib.contextmanager
def _fetching(address: str) -> Iterator[None]:
    """Word the failures of an object that is no registry."""
    try:
        with _translated(address):
            yield
    except NoRegistryError as error:
        raise FetchError(f"there is no object at {address}", hint="check the address") from error
    except RegistryError as error:
        raise FetchError(error.message, hint=error.hint) from error
    except NetworkError as error:
        message = error.message.removeprefix("the registry ")
        raise NetworkError(message, hint=error.hint) from error


def age_in_words(seconds: float) -> str:
    """Format an age: `12 s`, `5 min`, `3 h`, `2 days`."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _fetch(url: str, *, etag: str | None = None) -> tuple[str, str, Any] | None:
    """Return text, ETag and version; None if the object still has `etag`."""
    import obstore.exceptions as failures

    store, key = _store(url)
    try:
        answer = store.get(key, options={"if_none_match": etag} if etag else None)
    except failures.NotModifiedError:
        return None
    meta = answer.meta
    return bytes(answer.bytes()).decode(), str(meta["e_tag"]), meta["version"]


def _put(url: str, text: str, before: tuple[str, str, Any] | None) -> str:
    """Replace exactly what was read before by `text`; return the new ETag."""
    store, key = _store(url)
    mode: Any = "create"
    if before:  # by its ETag, and by its version if the store has versions
        mode = {"e_tag": before[1]} | ({"version": before[2]} if before[2] else {})
    return str(store.put(key, text.encode(), mode=mode, use_multipart=False)["e_tag"])


def _store(url: str) -> tuple[Any, str]:
    """Return the store of an address, and the object's name in it."""
    scheme, _, rest = url.partition("://")
    folder, _, key = rest.rpartition("/")
    bucket = folder.partition("/")[0]
    if scheme not in _SCHEMES or not key or not bucket or (scheme == "s3" and "@" in bucket):
        raise RegistryError(
            f"`{_without_user(url)}` is not the address of a registry",
            hint="expected s3://bucket/registry.json, gs://…, az://… or the path of a file;"
            " credentials come from the environment",
        )
    return _opened(f"{scheme}://{folder}", tuple(sorted(_variables().items()))), key


def _variables() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k.startswith(_VARIABLES)}


@functools.lru_cache(maxsize=4)
def _opened(address: str, variables: tuple[tuple[str, str], ...]) -> Any:
    """Return a client; cached, because making one takes longer than a request."""
    from obstore.store import from_url

    # Unencrypted only if the environment names such an endpoint.
    plain = any(v.startswith("http://") for name, v in variables if "_ENDPOINT" in name)
    options: dict[str, Any] = {
        "client_options": {"timeout": "30s", "connect_timeout": "5s", "allow_http": plain},
        "retry_config": {"max_retries": 3, "retry_timeout": dt.timedelta(seconds=20)},
    }
    return from_url(address, **options)


@contextlib.contextmanager
def _translated(url: str) -> Iterator[None]:
    with needs("store"):
        import obstore.exceptions as failures

    try:
        yield
    except FileNotFoundError as error:
        raise NoRegistryError(
            f"there is no registry at {url}",
            hint="check the address; the first build or `template-builder adopt` creates it",
        ) from error
    except (failures.PermissionDeniedError, failures.UnauthenticatedError) as error:
        raise RegistryError(
            f"the store refuses {url}: {_message(error)}",
            hint="set the credentials that the store's own tools take from the environment",
        ) from error
    except (failures.PreconditionError, failures.AlreadyExistsError):
        raise  # another writer was faster
    except UnicodeDecodeError as error:
        raise RegistryError(f"{url} is not a registry: {error}") from error
    except (failures.BaseError, OSError, ValueError) as error:
        raise NetworkError(
            f"the registry {url} cannot be reached: {_message(error)}",
            hint="check the network, the endpoint and the credentials in the environment",
        ) from error


def _message(error: Exception) -> str:
    message = str(error).strip().splitlines()[0][:300]
    for name, value in os.environ.items():
        if _SECRETS.search(name) and len(value) >= 8:
            message = message.replace(value, f"<{name}>")
    return message


def _without_user(url: str) -> str:
    return re.sub(r"://[^/@]*@", "://…@", url)


def _cache_path(url: str) -> Path:
    # The same address at another endpoint is another object.
    parts = [url, *(f"{k}={v}" for k, v in sorted(_variables().items()) if "_ENDPOINT" in k)]
    name = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
    return cache_folder() / "registries" / f"{name}.txt"


def _kept(url: str) -> _Kept | None:
    try:
        first, _, text = _cache_path(url).read_text(encoding="utf-8").partition("\n")
        header = parse_json(first)
        if header["size"] != len(text):
            return None
        return _Kept(text=text, etag=str(header["etag"]), at=float(header["at"]))
    except (OSError, ValueError, KeyError, TypeError, StorageError):
        return None


def _keep(url: str, kept: _Kept) -> None:
    header = json.dumps({"etag": kept.etag, "at": kept.at, "size": len(kept.text)})
    with contextlib.suppress(StorageError):  # without a cache it works, too
        atomic_write(_cache_path(url), f"{header}\n{kept.text}".encode(), mode=0o600, durable=False)
