"""Lock the downloads of specs to their content, and obtain what a lock names.

A file whose hash is known is fetched at most once: the store has it then.
"""

from __future__ import annotations

import dataclasses
from collections import ChainMap
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from builder.errors import FetchError, TemplateError
from builder.lock import http
from builder.lock.content import ContentFile, LockedDownload
from builder.spec import Stage, Variant, place_of
from builder.spec.variant import Download
from builder.system import processes, store
from builder.system.events import Event, Reporter, discard
from builder.system.fetch import UnsafeArchiveError, unpacked_size

if TYPE_CHECKING:
    from builder.lock.values import Lock

_JOBS = 4

Locked = Mapping[tuple[str, int], LockedDownload | TemplateError]


def lock_downloads(variants: Sequence[Variant], report: Reporter) -> Locked:
    """Lock every download of the variants; by stem of its stage and number in it."""
    stages = {stage.stem: stage for variant in variants for stage in variant.stages}
    by_file: dict[tuple[str, str | None], list[tuple[Stage, Download]]] = {}
    for stage in stages.values():
        for download in stage.downloads:
            by_file.setdefault((download.url, download.sha256), []).append((stage, download))
    if not by_file:
        return {}

    def lock_all(uses: Sequence[tuple[Stage, Download]]) -> Locked:
        """Lock the uses of one file, which is fetched for the first of them."""
        return {(stage.stem, each.number): _locked(stage, each, report) for stage, each in uses}

    with ThreadPoolExecutor(max_workers=_JOBS) as pool:
        return dict(ChainMap(*map(dict, pool.map(lock_all, by_file.values()))))


def with_downloads(lock: Lock, variant: Variant, locked: Locked) -> Lock | TemplateError:
    """Return a lock with the downloads of its stages, or the error of those that failed."""
    stages, errors = [], []
    for stage, stage_lock in zip(variant.stages, lock.stages, strict=True):
        downloads = [locked[stage.stem, each.number] for each in stage.downloads]
        errors += [each for each in downloads if isinstance(each, TemplateError)]
        ready = tuple(each for each in downloads if isinstance(each, LockedDownload))
        stages.append(dataclasses.replace(stage_lock, downloads=ready))
    if len(errors) > 1 and all(isinstance(error, FetchError) for error in errors):
        hints = dict.fromkeys(error.hint for error in errors if error.hint)
        return FetchError("\n".join(error.message for error in errors), hint="; ".join(hints))
    return errors[0] if errors else dataclasses.replace(lock, stages=tuple(stages))


def obtain(locked: ContentFile, *, report: Reporter = discard) -> Path:
    """Return a locked file in the store, fetched again if the store has lost it. Raise
    `FetchError` if it has changed, `NetworkError`, `StorageError`."""
    if path := store.find(locked.sha256):
        return path
    sha256 = _fetched(locked.url, known=True, report=report)
    if sha256 != locked.sha256:
        raise FetchError(
            f"{locked.url} has changed since it was locked:\n"
            f"  SHA-256 in the lock: {locked.sha256}\n"
            f"  SHA-256 of the file: {sha256}",
            hint="`template-builder lock` takes the new file, if you trust it",
        )
    path = store.find(sha256)
    assert path, "it was just stored"
    return path


def _locked(stage: Stage, download: Download, report: Reporter) -> LockedDownload | TemplateError:
    try:
        sha256 = _known(download) or _fetched(
            download.url, known=download.sha256 is not None, report=report
        )
        if download.sha256 not in (None, sha256):
            raise FetchError(
                f"{download.url} is not the file that the spec names:\n"
                f"  SHA-256 in the spec: {download.sha256}\n"
                f"  SHA-256 of the file: {sha256}",
                hint="if you trust the new file, write its hash into the spec; otherwise find the"
                " right one",
            )
        unpacked = _unpacked_size(download, sha256) if download.extract else None
    except TemplateError as error:
        key = ("download", download.number, "url")
        where = place_of(stage.path.parent, stage.source, key) if stage.path else stage.source
        return type(error)(f"{where}: {error.message}", hint=error.hint)
    size = store.size_of(sha256)
    assert size is not None, "it was just stored"
    return LockedDownload(url=download.url, sha256=sha256, size=size, unpacked_size=unpacked)


def _known(download: Download) -> str | None:
    """Return the hash that the spec names, if the store has such a file."""
    known = download.sha256
    return known if known and store.size_of(known) is not None else None


def _fetched(url: str, *, known: bool, report: Reporter) -> str:
    processes.check_not_stopped()
    report(Event(kind="step", text=f"fetching {url}"))

    def progress(size: int, total: int | None) -> None:
        of = f" of {total / 1e6:,.0f}" if total else ""
        report(Event(kind="detail", text=f"{url}: {size / 1e6:,.0f}{of} MB"))

    return http.fetch(url, known=known, progress=progress)


def _unpacked_size(download: Download, sha256: str) -> int:
    path = store.find(sha256)
    if path is None:  # damaged since
        http.fetch(download.url, known=True)
        path = store.folder() / sha256
    try:
        return unpacked_size(str(path))
    except UnsafeArchiveError as error:
        raise FetchError(
            f"{download.url} cannot be extracted: it {error}",
            hint="use another archive, or leave `extract` out",
        ) from error
