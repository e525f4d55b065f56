"""Lock the downloads of specs to their content."""

from __future__ import annotations

from builder.errors import FetchError
from builder.lock import http
from builder.lock.content import LockedDownload
from builder.spec.variant import Download
from builder.system import processes, store
from builder.system.events import Event, Reporter
from builder.system.fetch import UnsafeArchiveError, unpacked_size


def lock_download(download: Download, report: Reporter) -> LockedDownload:
    """Lock a download. Raise `FetchError`, `NetworkError`, `StorageError`."""
    known = download.sha256 is not None
    sha256 = _known(download) or fetch(download.url, known=known, report=report)
    if download.sha256 not in (None, sha256):
        raise FetchError(
            f"{download.url} is not the file that the spec names:\n"
            f"  SHA-256 in the spec: {download.sha256}\n"
            f"  SHA-256 of the file: {sha256}",
            hint="if you trust the new file, write its hash into the spec; otherwise find the right"
            " one",
        )
    unpacked = _unpacked_size(download, sha256) if download.extract else None
    size = store.size_of(sha256)
    assert size is not None, "it was just stored"
    return LockedDownload(url=download.url, sha256=sha256, size=size, unpacked_size=unpacked)


def _known(download: Download) -> str | None:
    """Return the hash that the spec names, if the store has such a file; intact, if it is read."""
    known = download.sha256
    if known and (store.find(known) if download.extract else store.size_of(known) is not None):
        return known
    return None


def fetch(url: str, *, known: bool, report: Reporter) -> str:
    """Fetch a file into the store, and return its SHA-256; see `http.fetch`."""
    processes.check_not_stopped()
    report(Event(kind="step", text=f"fetching {url}"))

    def progress(size: int, total: int | None) -> None:
        of = f" of {total / 1e6:,.0f}" if total else ""
        report(Event(kind="detail", text=f"{url}: {size / 1e6:,.0f}{of} MB"))

    return http.fetch(url, known=known, progress=progress)


def _unpacked_size(download: Download, sha256: str) -> int:
    path = store.find(sha256)
    assert path, "it was just stored"
    try:
        return unpacked_size(str(path))
    except UnsafeArchiveError as error:
        raise FetchError(
            f"{download.url} cannot be extracted: it {error}",
            hint="use another archive, or leave `extract` out",
        ) from error
